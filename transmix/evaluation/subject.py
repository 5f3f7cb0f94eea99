"""What can be evaluated: a run, a weights file, a timm model; each becomes models, classes, preprocessing and data."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from transmix import distributed
from transmix.data.augment import EvaluationCrop
from transmix.data.bad_images import BadImages
from transmix.data.dataset import ImageData
from transmix.data.grey import EACH_IMAGE, Grey, GreyRange, as_grey
from transmix.data.grey_range import FIND, scale_grey
from transmix.data.source import in_classes, open_data, open_own
from transmix.evaluation.evaluate import evaluate
from transmix.evaluation.opened import OpenedModel
from transmix.models.build import AMP, build_model, normaliser, published_classes
from transmix.models.settings import Model
from transmix.models.start import head_size, read_weights
from transmix.recipes import RecipeError
from transmix.recipes.check import check_grey_range
from transmix.runs.checkpoint import read_tensors
from transmix.runs.folder import RunError, read_choice, read_recipe
from transmix.runs.weights import NAMES, choose_weights

LEFT_OUT = ("confusion", "reliability")
"""What `evaluate` finds and no table of scores has room for."""


@dataclass(frozen=True)
class Subject:
    """Something to evaluate, and what to evaluate it on.

    Attributes:
        models: name -> model; a run has "model" and, if it kept an average of the weights, "ema".
        classes: what the logits' columns mean.
        data: labels are positions in `classes`.
        crop: (H, W, 3) uint8 array -> (3, S, S) uint8 tensor.
        mean_std: of the model's input, per colour channel.
        weights: which weights were taken, in words.
        grey: how the model's training scaled greyscale of more than 8 bits; "find": not known.
    """

    models: dict[str, nn.Module]
    classes: tuple[str, ...]
    data: ImageData
    crop: Callable
    mean_std: tuple[tuple[float, ...], tuple[float, ...]]
    weights: str
    grey: Grey | Literal["find"] = FIND


def open_subject(
    target: str,
    *,
    checkpoint: str = "last",
    model: str | None = None,
    data: str | None = None,
    grey_range: GreyRange | None = None,
) -> Subject:
    """Open what is to be evaluated.

    Args:
        target: a run folder, a .safetensors file, or the name of a timm model.
        checkpoint: "last" or "best", of a run.
        model: timm name of the model in a .safetensors file that does not say so itself.
        data: data set; None: a run's own.
        grey_range: values that are black and white in grey images of more than 8 bits; None: those that the run or the
            weights file has kept, for others those of the training images in the data set.

    Raises:
        RunError, RecipeError, DataError, CheckpointError: what is missing or does not fit.
    """
    check_grey_range(grey_range)
    subject = _open(target, checkpoint, model, data)
    return replace(subject, data=scale_grey(subject.data, grey_range or subject.grey))


def _open(target: str, checkpoint: str, model: str | None, data: str | None) -> Subject:
    if Path(target).is_dir():
        return _run(Path(target), checkpoint, data)
    if data is None:
        if "/" in target and not target.endswith(".safetensors"):
            raise RunError(f"{target}: no such run folder")
        raise RecipeError(f"{target} comes without data; say what to evaluate it on with --data")
    if target.endswith(".safetensors"):
        return _from_file(Path(target), open_data(data), model)
    return _published(target, open_data(data))


def open_models(
    subject: Subject,
    *,
    batch_size: int = 128,
    device: str = "auto",
    workers: int | None = None,
    amp: str = "none",
    compile: bool = False,
    bad: BadImages | None = None,
) -> list[OpenedModel]:
    """Bring a subject's models to the device; under torchrun, join the other processes.

    Args:
        subject: as `open_subject` gives it.
        batch_size: images at once.
        device: "auto", "cpu", "cuda", ...
        workers: processes that load images; None: what the cores allow.
        amp: "none", "bf16" or "fp16".
        compile: torch.compile the models.
        bad: how many images may be unreadable, and which are; None: none may.

    Raises:
        RecipeError: a device that this machine does not have, or processes that cannot find each other.
    """
    world = distributed.start(device)
    opened = []
    for name, model in subject.models.items():
        model = model.to(world.device).eval()
        ready: Any = torch.compile(model) if compile else model
        about = (subject.classes, subject.crop, subject.mean_std)
        opened.append(OpenedModel(name, ready, *about, world, batch_size, workers, AMP[amp], bad, subject.data.grey))
    return opened


def evaluate_models(models: list[OpenedModel], data: ImageData) -> dict[str, dict[str, Any]]:
    """Return the scores of each model on a data set's validation split, but for `LEFT_OUT`."""
    scores = {}
    for one in models:
        found = evaluate(
            one.model,
            one.loaded(data.val),
            len(one.classes),
            one.device,
            normalise=normaliser(*one.mean_std, one.device, channels_last=False),
            amp_dtype=one.amp_dtype,
        )
        scores[one.name] = {metric: value for metric, value in found.items() if metric not in LEFT_OUT}
    return scores


def evaluate_subject(
    subject: Subject,
    *,
    batch_size: int = 128,
    device: str = "auto",
    workers: int | None = None,
    amp: str = "none",
    bad: BadImages | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the scores of each of a subject's models, as `evaluate` gives them but for `LEFT_OUT`.

    Images that cannot be read are left out, as far as `bad` allows (None: not at all), and are known to it then.
    """
    models = open_models(subject, batch_size=batch_size, device=device, workers=workers, amp=amp, bad=bad)
    return evaluate_models(models, subject.data)


def _run(folder: Path, which: str, data_name: str | None) -> Subject:
    taken = choose_weights(folder, which, purpose="evaluate")
    recipe = read_recipe(folder)
    data = open_own(recipe.data, recipe.run.seed, read_choice(folder), data_name)
    paths = {name: taken.folder / f"{name}.safetensors" for name in NAMES}
    subjects = {name: _from_file(path, data) for name, path in paths.items() if path.exists()}
    models = {name: one.models["model"] for name, one in subjects.items()}
    sets = " and ".join(f"{NAMES[name]} ({name})" for name in models)
    return replace(
        subjects["model"], models=models, weights=f"{sets} of step {taken.step} ({taken.checkpoint} checkpoint)"
    )


def _from_file(path: Path, data: ImageData, model_name: str | None = None) -> Subject:
    """Build the model that a weights file holds; files of our own say which, for others `model_name` must."""
    tensors, metadata = read_tensors(path)
    try:
        about = json.loads(metadata.get("transmix", "{}"))
    except ValueError as error:
        raise RecipeError(f"{path} does not say which model it holds in JSON: {error}") from error
    if not about:
        if model_name is None:
            raise RecipeError(f"{path} does not say which model it holds; name it: --model vit_small_patch16_224")
        return _published(model_name, data, path)
    classes = tuple(about["classes"])
    data = in_classes(classes, data)
    settings = Model(about["model"], about["model_options"], about.get("class_attention", False))
    model = build_model(settings, len(classes), about["image_size"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RecipeError(f"{path} does not fit {about['model']}: {' '.join(str(error).split())[:300]}") from error
    crop = EvaluationCrop(about["image_size"], about["eval_crop"])
    mean_std, grey = (tuple(about["mean"]), tuple(about["std"])), as_grey(about.get("grey_range", EACH_IMAGE))
    return Subject({"model": model}, classes, data, crop, mean_std, f"those of {path}", grey)


def _published(name: str, data: ImageData, weights: Path | None = None) -> Subject:
    """Build a timm model with published weights (or a file's); its outputs are the data's classes in their order."""
    settings = Model(name, pretrained=weights is None, init=str(weights) if weights else None)
    outputs = head_size(read_weights(weights).tensors) if weights else published_classes(name)
    if outputs is None or outputs != len(data.classes):
        raise RecipeError(
            f"{weights or name} has {outputs or 'no'} outputs, but {data.name} has {len(data.classes)} classes; "
            f"evaluate it on data with its classes, or fine-tune it first: transmix train --recipe imagenet_deit_small "
            f"--model {name} --init {weights or name} --data DATA --out RUN"
        )
    model = build_model(settings, outputs, None, whole=True)
    config: Any = model.pretrained_cfg
    crop = EvaluationCrop(config["input_size"][-1], config["crop_pct"])
    mean_std = tuple(config["mean"]), tuple(config["std"])
    taken = f"those of {weights}" if weights else f"the published weights of {name}"
    return Subject({"model": model}, data.classes, data, crop, mean_std, taken)
