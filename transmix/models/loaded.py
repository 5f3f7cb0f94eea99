"""Load a model from a run, a weights file, timm's published weights or an exported folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from transmix.attention import AttentionError
from transmix.data.augment import EvaluationCrop, to_tensor
from transmix.data.dataset import DataError, ImageData
from transmix.data.decode import decode_image
from transmix.data.evaluated import WHATEVER, Asked, open_part_of, open_part_of_run
from transmix.data.grey import EACH_IMAGE, Grey, GreyRange, as_grey
from transmix.data.grey_range import FIND, scale_grey
from transmix.data.source import in_classes
from transmix.error import one_line
from transmix.models.build import build_model, cached_file, check_patches, load_tensors, normaliser, published_config
from transmix.models.start import head_size
from transmix.recipes import Recipe, RecipeError
from transmix.recipes.check import check_grey_range
from transmix.recipes.settings import Model
from transmix.runs.checkpoint import read_tensors
from transmix.runs.error import RunError
from transmix.runs.folder import read_choice, read_recipe
from transmix.runs.weights import RunWeights, choose_weights, is_run, kept_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The files of an exported folder."""


class Cover:
    """Resize an image to cover (H, W) / crop, bicubic, and crop its centre: `EvaluationCrop` for any rectangle.

    Args:
        size: (H, W).
        crop: Fraction of the resized sides that is kept.
    """

    def __init__(self, size: tuple[int, int], crop: float = 1.0):
        self.size, self.crop = size, crop

    def __call__(self, image: np.ndarray) -> Tensor:
        """Crop an (h, w, 3) uint8 array to a (3, H, W) uint8 tensor."""
        height, width = self.size
        scale = max(height / image.shape[0], width / image.shape[1]) / self.crop
        tall, wide = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
        resized = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BICUBIC))
        top, left = (tall - height) // 2, (wide - width) // 2
        return to_tensor(resized[top : top + height, left : left + width])


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a model's input.

    Attributes:
        size: side of the square input in pixels, or its (H, W).
        crop_pct: the fraction of the resized image's side that is kept.
        mean: per colour channel, of pixels in 0..1.
        std: per colour channel, of pixels in 0..1.
        grey: scale of greyscale of more than 8 bits; None: unknown, such images are an error.
    """

    size: int | tuple[int, int]
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    grey: Grey = None

    @property
    def height_width(self) -> tuple[int, int]:
        """(H, W) of the input in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def crop(self) -> Callable[[np.ndarray], Tensor]:
        """Crop an (h, w, 3) uint8 array to a (3, H, W) uint8 tensor."""
        kind: Any = EvaluationCrop if isinstance(self.size, int) else Cover
        return kind(self.size, self.crop_pct)

    def read(self, path: Path) -> Tensor:
        """Decode an image file and crop it: (3, H, W) uint8.

        Raises:
            DataError: it cannot be read.
        """
        return self.crop(decode_image(path, str(path), self.grey))

    def normaliser(self, device: torch.device | str) -> Callable[[Tensor], Tensor]:
        """Return a function from uint8 images (B, 3, H, W) to the model's float32 input on a device."""
        return normaliser(self.mean, self.std, torch.device(device), channels_last=False)

    def as_json(self) -> dict[str, Any]:
        """Return the entries for an export's metadata; "grey_range" only if known."""
        resized = EvaluationCrop(max(self.height_width), self.crop_pct).resized
        grey = {"grey_range": list(self.grey)} if isinstance(self.grey, tuple) else {}
        return grey | {
            "image_size": self.size,
            "resize": resized,
            "crop_pct": self.crop_pct,
            "interpolation": "bicubic",
            "mean": list(self.mean),
            "std": list(self.std),
        }


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model with its metadata.

    Attributes:
        target: run, file or name that it was loaded from.
        model: normalised images (B, 3, H, W) to logits (B, K); on the CPU, in evaluation mode.
        classes: the K names of the logits' columns; None: unknown.
        preprocessing: its preprocessing.
        weights: a text: which weights these are, and why.
        settings: model settings for timm.
        metadata: metadata of the weights file.
        recipe: recipe of the run; None if not from a run.
        chosen: the chosen weights of the run with their scores; None if not from a run.
    """

    target: str
    model: nn.Module
    classes: tuple[str, ...] | None
    preprocessing: Preprocessing
    weights: str = ""
    settings: Model = field(default_factory=Model)
    metadata: dict[str, str] = field(default_factory=dict)
    recipe: Recipe | None = None
    chosen: RunWeights | None = None

    @property
    def name(self) -> str:
        """The name of the weights: "ema" or "model"."""
        return self.chosen.name if self.chosen else "model"

    def resized(self, size: tuple[int, int]) -> "LoadedModel":
        """Return the model with another input size, (H, W) in pixels. The original model is changed too.

        Raises:
            RecipeError, AttentionError: the model does not support that size.
        """
        resize_input(self.model, size)
        seen = self.preprocessing
        kept = seen.size / EvaluationCrop(seen.size, seen.crop_pct).resized if isinstance(seen.size, int) else 1.0
        return replace(self, preprocessing=replace(seen, size=size, crop_pct=kept))


def resize_input(model: nn.Module, size: tuple[int, int]) -> None:
    """Change a model's input size to (H, W) in pixels; its position embedding is resized in place.

    Raises:
        RecipeError: Its patches do not divide the size.
        AttentionError: The model does not support the size.
    """
    for side in size:
        check_patches(model, side)
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=size)  # type: ignore[operator]
        with torch.no_grad():
            model(torch.zeros(1, 3, *size))
    except Exception as error:  # timm's models raise what their code happens to raise
        what = f"{type(model).__name__} does not take images of {size[0]} x {size[1]} pixels"
        raise AttentionError(f"{what} ({one_line(error)}); leave --size out") from error


def load_model(
    target: str | Path,
    *,
    model: str | None = None,
    checkpoint: str = "last",
    weights: str = "auto",
    offline: bool = False,
    grey_range: GreyRange | None = None,
    data: ImageData | None = None,
) -> LoadedModel:
    """Load a model.

    Args:
        target: a run folder, an exported folder (timm or Hugging Face files), a .safetensors file, or a timm name.
        model: timm name of the model, for a .safetensors file without it in the metadata.
        checkpoint: "last" or "best" checkpoint of a run.
        weights: weights of a run: "model"; "ema"; "auto": the EMA if the run has one and its score is not far below the
            model's.
        offline: for a timm name, use published weights only if they are on this machine, else random ones.
        grey_range: values for black and white in grey images of more than 8 bits; None: the model's own range.
        data: data set; a model without class names must have the same number of classes.

    Raises:
        RunError, RecipeError, CheckpointError: something is missing or does not fit.

    Example:
        >>> loaded = load_model("runs/digits")  # doctest: +SKIP
        >>> pixels = loaded.preprocessing.normaliser("cpu")(loaded.preprocessing.read("7.png")[None])  # doctest: +SKIP
        >>> loaded.classes[loaded.model(pixels).argmax()]  # doctest: +SKIP
    """
    check_grey_range(grey_range)
    path = Path(target)
    match _kind(target):
        case "run":
            loaded = _load_run(path, checkpoint, weights)
        case "export":
            loaded = _load_export(path)
        case "file":
            loaded = _load_file(path, model, data)
        case "timm":
            loaded = _load_published(str(target), data, offline)
    grey = grey_range or loaded.preprocessing.grey
    return replace(loaded, preprocessing=replace(loaded.preprocessing, grey=grey))


def load_with_data(
    target: str | Path,
    data: str | None = None,
    *,
    model: str | None = None,
    checkpoint: str = "last",
    weights: str | None = None,
    grey_range: GreyRange | None = None,
    asked: Asked = WHATEVER,
    any_classes: bool = False,
) -> tuple[list[LoadedModel], ImageData]:
    """Load a model, and a data set whose labels are indices into the model's classes.

    Args:
        target: as for `load_model`.
        data: name or folder of the data set; None: the run's own.
        model: as for `load_model`.
        checkpoint: as for `load_model`.
        weights: as for `load_model`; None: all sets of weights of the run.
        grey_range: values for black and white in grey images of more than 8 bits; None: the model's own range, else
            minimum and maximum over the data's training images.
        asked: part of the data, columns and places.
        any_classes: also take data of other classes, for those who need the model's features alone. Then labels are
            indices into the data's own classes, the models' classes are None, and a note of the data says so.

    Returns:
        One model for each set of weights, and the data.

    Raises:
        RunError, RecipeError, DataError, CheckpointError: something is missing or does not fit.
    """
    check_grey_range(grey_range)
    every = weights is None and _kind(target) == "run"
    kept = kept_weights(Path(target), checkpoint) if every else [weights or "auto"]
    found = _open_data(target, data, asked)
    options: dict[str, Any] = {"model": model, "checkpoint": checkpoint, "data": None if any_classes else found}
    models = [load_model(target, weights=name, **options) for name in kept]
    first = models[0]
    why = _why_other_classes(first, found) if any_classes else None
    if why is None:
        found = in_classes(first.classes or found.classes, found)
    else:
        found = replace(found, notes=(*found.notes, f"only features are measured, not what the model answers: {why}"))
    found = scale_grey(found, grey_range or (FIND if first.classes is None else first.preprocessing.grey))
    classes = found.classes if why is None else None
    return [
        replace(one, classes=classes, preprocessing=replace(one.preprocessing, grey=found.grey)) for one in models
    ], found


def _why_other_classes(loaded: LoadedModel, data: ImageData) -> str | None:
    """Return why a model's outputs are not the classes of a data set; None if they are."""
    if loaded.classes is None:
        outputs: Any = loaded.model.num_classes
        differ = f"{loaded.target} has {outputs or 'no'} outputs, {data.name} {len(data.classes)} classes"
        return None if outputs == len(data.classes) else differ
    try:
        in_classes(loaded.classes, data)
    except DataError as error:
        return str(error)
    return None


def _kind(target: str | Path) -> Literal["run", "export", "file", "timm"]:
    """Return the kind of a target.

    Raises:
        RunError: the folder is missing, is neither a run nor an export, or holds an ONNX export alone.
    """
    if is_run(target):
        return "run"
    has_config = (Path(target) / CONFIG).exists()
    if str(target).lower().endswith(".onnx") or (not has_config and any(Path(target).glob("*.onnx"))):
        remedy = "give the run itself, or its export for timm: transmix export RUN --format timm"
        raise RunError(f"{target}: an ONNX export, which is for onnxruntime and not read here; {remedy}")
    if Path(target).is_dir():
        if not has_config:
            raise RunError(f"{target} is neither a run (no recipe.yaml) nor exported for timm (no {CONFIG})")
        return "export"
    if str(target).endswith(".safetensors"):
        return "file"
    if "/" in str(target):
        raise RunError(f"{target}: no such run folder")
    return "timm"


def _open_data(target: str | Path, data: str | None, asked: Asked) -> ImageData:
    """Open a named data set, or the run's own with its saved choices."""
    if not is_run(target):
        if data is None:
            raise RecipeError(f"{target} comes without data; give a data set: --data")
        return open_part_of(data, asked)
    recipe, kept = read_recipe(Path(target)), read_choice(Path(target))
    settings, seed = recipe.data, recipe.run.seed
    if data is None:
        return open_part_of_run(settings, seed, kept, asked)
    asked = replace(asked, data_dir=asked.data_dir or settings.download or settings.data_dir)
    return open_part_of(data, asked, seed, kept)


def _load_run(folder: Path, checkpoint: str, weights: str) -> LoadedModel:
    chosen = choose_weights(folder, checkpoint, weights)
    loaded = _load_file(chosen.folder / f"{chosen.name}.safetensors", None, None)
    return replace(loaded, target=str(folder), weights=str(chosen), recipe=read_recipe(folder), chosen=chosen)


def _load_file(path: Path, model_name: str | None, data: ImageData | None) -> LoadedModel:
    """Load a weights file; ours name their model in the metadata, others need `model_name`."""
    tensors, metadata = read_tensors(path)
    taken = _source(path, metadata)
    try:
        about = json.loads(metadata.get("transmix", "{}"))
        if not about:
            if model_name is None:
                raise RecipeError(f"{path} does not say which model it holds; name it: --model vit_small_patch16_224")
            return _load_timm(str(path), Model(model_name, init=str(path)), head_size(tensors), data, taken)
        settings = Model(about["model"], about["model_options"], about.get("class_attention", False))
        grey = as_grey(about.get("grey_range", EACH_IMAGE))
        seen = about["image_size"], about["eval_crop"], tuple(about["mean"]), tuple(about["std"])
        classes = tuple(about["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path} does not say which model it holds in JSON: {error!r}") from error
    model = _filled(settings, tensors, len(classes), seen[0], f"{path} does not fit {about['model']}")
    return LoadedModel(str(path), model, classes, Preprocessing(*seen, grey), taken, settings, metadata)


def _load_export(folder: Path) -> LoadedModel:
    """Load a timm or Hugging Face export of `transmix export`, with or without class-attention head."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        about, options = config["pretrained_cfg"], dict(config.get("model_args", {}))
        architecture, classes, size = config["architecture"], tuple(config["label_names"]), about["input_size"][-1]
        grey = as_grey(config.get("grey_range"))
        preprocessing = Preprocessing(size, about["crop_pct"], tuple(about["mean"]), tuple(about["std"]), grey)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder} is not what transmix export --format timm writes: {CONFIG}: {error!r}") from error
    options.pop("img_size", None)
    settings = Model(architecture, options, "class_attention" in config)
    tensors, metadata = read_tensors(folder / WEIGHTS)
    model = _filled(settings, tensors, len(classes), size, f"the weights in {folder} do not fit its {CONFIG}")
    kept = {name: config[name] for name in ("architecture", "label_names", "grey_range") if name in config}
    model.pretrained_cfg = about | kept  # for timm.data.resolve_model_data_config
    return LoadedModel(str(folder), model, classes, preprocessing, _source(folder, metadata), settings, metadata)


def _source(path: Path, metadata: dict[str, str]) -> str:
    """Describe the source of weights; an export also names which weights of the run it holds."""
    return f"from {path}" + (f": {metadata['weights']}" if "weights" in metadata else "")


def _filled(settings: Model, tensors: dict[str, Tensor], outputs: int, size: int, complaint: str) -> nn.Module:
    model = build_model(settings, outputs, size)
    load_tensors(model, tensors, complaint)
    return model.eval()


def _load_published(name: str, data: ImageData | None, offline: bool) -> LoadedModel:
    config = published_config(name)
    settings = Model(name, pretrained=not offline, init=cached_file(config) if offline else None)
    if settings.pretrained or settings.init:
        return _load_timm(name, settings, config.num_classes, data, f"the published weights of {name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _load_timm(name, settings, config.num_classes, data, RANDOM)


RANDOM = "random"
"""What `LoadedModel.weights` says where published weights were not to be had."""


def _load_timm(target: str, settings: Model, outputs: int | None, data: ImageData | None, taken: str) -> LoadedModel:
    """Load a timm model; its published weights have no class names."""
    if data is not None and (outputs is None or outputs != len(data.classes)):
        raise RecipeError(
            f"{target} has {outputs or 'no'} outputs, but {data.name} has {len(data.classes)} classes; "
            f"evaluate it on data with its classes, or fine-tune it first: transmix train --recipe imagenet_deit_small "
            f"--model {settings.model} --init {target} --data DATA --out RUN"
        )
    whole = settings.init is not None or data is not None
    model = build_model(settings, outputs or 0, None, whole=whole)
    config: Any = model.pretrained_cfg
    seen = Preprocessing(config["input_size"][-1], config["crop_pct"], tuple(config["mean"]), tuple(config["std"]))
    return LoadedModel(target, model.eval(), None, seen, taken, settings)
