"""The model that the page shows: a run's, a weights file's, timm's; without any, a small one that needs no network."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from transmix.data.augment import EvaluationCrop
from transmix.data.grey import GreyRange
from transmix.recipes.check import check_grey_range
from transmix.recipes.settings import Mixing
from transmix.runs.folder import read_classes
from transmix.visual.viewed import Viewed, open_viewed

DEFAULT = "deit_tiny_patch16_224"
"""What is shown when nothing is named: the smallest of the paper's family."""

RANDOM = (
    "The weights of this model are random: its published ones are not on this machine. Where an untrained model looks "
    "means nothing; only the arithmetic of the label can be seen. Start `transmix app` with a run folder, a "
    ".safetensors file, or the name of a timm model, whose published weights are then fetched."
)


@dataclass(frozen=True)
class Opened:
    """A model, and how the page speaks of it.

    Attributes:
        name: What it was opened by.
        viewed: The model, its crop and its normalisation.
        classes: K names, or None where the columns of the logits have none.
        code: Lines of Python that make `model`, `crop`, `mean` and `std`, the imports that they need first.
        notice: What has to be known before anything is believed.
    """

    name: str
    viewed: Viewed
    classes: tuple[str, ...] | None
    code: tuple[tuple[str, ...], str]
    notice: str = ""


def open_model(
    target: str | None = None,
    *,
    model: str | None = None,
    checkpoint: str = "last",
    weights: str = "auto",
    grey_range: GreyRange | None = None,
) -> Opened:
    """Open a run folder, a .safetensors file or a timm model; None: `DEFAULT`, with no use of the network.

    Args:
        target: As for `open_viewed`.
        model: timm name of the model in a .safetensors file that does not say so itself.
        checkpoint: "last" or "best", of a run.
        weights: Of a run: "model", "ema" or "auto".
        grey_range: As for `open_viewed`.

    Raises:
        RunError, RecipeError, DataError, CheckpointError, ExportError: What is missing or does not fit.
    """
    if target is None:
        check_grey_range(grey_range)
        opened = _default()
        return replace(opened, viewed=replace(opened.viewed, grey=grey_range))
    given = {"model": model, "checkpoint": checkpoint, "weights": weights}
    usual = {"model": None, "checkpoint": "last", "weights": "auto"}
    viewed = open_viewed(target, model=model, checkpoint=checkpoint, weights=weights, grey_range=grey_range)
    path = str(Path(target).resolve()) if Path(target).exists() else target
    options = "".join(f", {name}={value!r}" for name, value in given.items() if value != usual[name])
    code = f"viewed = open_viewed({path!r}{options})\nmodel, crop, (mean, std) = "
    code += "viewed.model, viewed.crop, viewed.mean_std"
    return Opened(target, viewed, _classes(target, viewed), (("from transmix.visual.viewed import open_viewed",), code))


def _default() -> Opened:
    """Open `DEFAULT` with its published weights if they are on this machine already, else with random ones."""
    config = timm.get_pretrained_cfg(DEFAULT)
    assert config is not None
    kept = try_to_load_from_cache(config.hf_hub_id or "", "model.safetensors")
    imports: tuple[str, ...] = ("import timm", "from transmix.data.augment import EvaluationCrop")
    if isinstance(kept, str):
        model = timm.create_model(DEFAULT, pretrained=True, pretrained_cfg_overlay={"file": kept})
        create = f"model = timm.create_model({DEFAULT!r}, pretrained=True).eval()"
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = timm.create_model(DEFAULT)
        create = (
            f"torch.manual_seed(0)  # random weights, as on the page\nmodel = timm.create_model({DEFAULT!r}).eval()"
        )
    size, kept_part, mean, std = config.input_size[-1], config.crop_pct, tuple(config.mean), tuple(config.std)
    crop = EvaluationCrop(size, kept_part)
    taken = f"the published weights of {DEFAULT}" if isinstance(kept, str) else "random"
    viewed = Viewed(model.eval(), crop, (mean, std), _no_data, Mixing(), taken=taken)
    code = f"{create}\ncrop, mean, std = EvaluationCrop({size}, {kept_part}), {mean}, {std}"
    return Opened(DEFAULT, viewed, _classes(DEFAULT, viewed), (imports, code), "" if isinstance(kept, str) else RANDOM)


def _no_data():
    raise AssertionError("the page asks for no data set")


def _classes(target: str, viewed: Viewed) -> tuple[str, ...] | None:
    """Return the names of a model's classes: a run's own, those in a file's metadata, or ImageNet's."""
    if Path(target).is_dir():
        return read_classes(Path(target))
    if target.endswith(".safetensors"):
        with safe_open(target, "pt") as file:
            about = json.loads((file.metadata() or {}).get("transmix", "{}"))
        if about:
            return tuple(about["classes"])
    subset = infer_imagenet_subset(viewed.model)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index).split(",")[0] for index in range(info.num_classes()))
