"""transmix show: figures of a model, as PNG or SVG."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from transmix import distributed
from transmix.attention import AttentionError
from transmix.cli.options import parse
from transmix.data.dataset import DataError, ImageData, Split
from transmix.data.loader import choose_workers, evaluation_batches
from transmix.data.masks import open_foregrounds
from transmix.labels.evidence import Rule
from transmix.mixing.box import check_box
from transmix.models.loaded import LoadedModel, load_model, load_with_data
from transmix.recipes import RecipeError
from transmix.recipes.mixing import rule_name
from transmix.recipes.settings import Mixing
from transmix.runs.weights import is_run
from transmix.visual.attention import heads_figure, layers_figure, rollout_figure, spaced
from transmix.visual.boxes import PastedBox, draw_boxes, judge, most_disputed, pairs_of, rule_labels
from transmix.visual.curves import curves_figure, read_curves
from transmix.visual.labels import NO_MASKS, trained_rule, why_not
from transmix.visual.look import head_rows, layer_rows, look, rollout
from transmix.visual.page import FORMATS, save_figure
from transmix.visual.pairs import pairs_figure, trained_note
from transmix.visual.palette import PAGE
from transmix.visual.reliability import reliability, reliability_figure
from transmix.visual.run import examples_figure, read_log

What = Literal["pair", "sheet", "heads", "layers", "rollout", "epochs", "gallery", "curves", "reliability"]


@dataclass(frozen=True)
class Show:
    """Draw a figure of a run, an exported folder, a weights file or a timm model.

    pair: two images, the mask, the mixed image with the class token's attention, and its labels by area and attention.
    sheet: several pairs. gallery: the boxes, out of many, whose labels by area and by attention differ most.
    heads: attention of each head in one layer. layers: attention of each layer. rollout: attention rollout.
    epochs: attention on the same validation images after each epoch. curves: training curves of a run.
    reliability: accuracy against confidence on the validation images.
    """

    what: Annotated[What, tyro.conf.Positional, "figure"]
    """The figure."""
    target: Annotated[str, tyro.conf.Positional]
    """A run folder; an exported folder; a .safetensors file; or a timm name, whose published weights are used."""
    out: Path
    """The file to write, .png or .svg."""
    images: Annotated[tuple[Path, ...], "images"] = ()
    """Image files instead of validation images; pair needs two."""
    data: str | None = None
    """Data set whose validation images are used; default: the run's own."""
    checkpoint: Annotated[Literal["last", "best"], "model"] = "last"
    """Checkpoint of a run to use."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Weights of a run: 'model', the weights as trained; 'ema', their exponential moving average; 'auto', the EMA if
    there is one and its score is not far below the model's."""
    device: str = "auto"
    """'auto': cuda if there is a GPU, else cpu."""
    model: str | None = None
    """timm name of the model in a .safetensors file without that name in its metadata."""
    size: tuple[int, int] | None = None
    """Height and width of the model input in pixels; default: the model's own."""
    grey_range: tuple[float, float] | None = None
    """Pixel values for black and white in grey images of more than 8 bits; None: the range saved in the run."""
    layer: Annotated[int, "what is drawn"] = -1
    """heads: layer number, from 0; negative counts from the end."""
    count: int | None = None
    """Number of images or pairs; None: as many as fit into the figure."""
    boxes: int = 512
    """gallery: number of random boxes to try."""
    empty: bool = False
    """gallery: only boxes whose attention share is below their area share."""
    box: tuple[int, int, int, int] | None = None
    """pair: top, left, bottom and right of the box in pixels, instead of a random one."""
    seed: int = 0
    """pair, sheet, gallery: seed of the random images and boxes."""
    width: Annotated[float, "output"] = PAGE
    """Figure width in inches; 3.3 fits a column of a paper, 6.9 its page."""
    dpi: int = 220
    """Pixels per inch of a PNG."""


def main(arguments: list[str]) -> None:
    """Parse the command line, draw, save, and say where."""
    asked = parse(Show, "show", arguments)
    _check(asked)
    try:
        save_figure(FIGURES[asked.what](asked), asked.out, asked.dpi)
    except ValueError as error:  # of what was found there, and of pictures too large
        raise RecipeError(f"{asked.what} of {asked.target}: {error}") from error
    except OSError as error:
        raise RecipeError(f"cannot write {asked.out}: {error.strerror or error}") from error
    print(f"written to {asked.out}")


def _check(asked: Show) -> None:
    if asked.out.suffix.lower() not in FORMATS:
        raise RecipeError(f"a figure is saved as .png or .svg, got {str(asked.out)!r}")
    if not asked.out.parent.is_dir():
        raise RecipeError(f"cannot write {asked.out}: no folder {asked.out.parent}; make it first")
    for name, least in {"count": 1, "boxes": 1, "width": 2, "dpi": 30}.items():
        value = getattr(asked, name)
        if value is not None and not value >= least:
            raise RecipeError(f"{name} must be at least {least}, not {value}")
    if asked.size is not None and min(asked.size) < 1:
        raise RecipeError(f"size is a height and a width in pixels, not {asked.size[0]} {asked.size[1]}")


@dataclass(frozen=True, eq=False)
class _Scene:
    """A model on its device and the images to run it on."""

    loaded: LoadedModel
    device: torch.device
    image: Callable[[int], Tensor]  # position -> (3, H, W) uint8
    name: Callable[[int], str]
    number: int  # of images
    data: ImageData | None = None

    def normalise(self, images: Tensor) -> Tensor:
        return self.loaded.preprocessing.normaliser(self.device)(images)

    @property
    def split(self) -> Split | None:
        return None if self.data is None else self.data.val

    @property
    def mixing(self) -> Mixing:
        """The run's mixing settings; for other models the paper's."""
        return self.loaded.recipe.mixing if self.loaded.recipe else Mixing()


def _scene(asked: Show) -> _Scene:
    options = {"model": asked.model, "checkpoint": asked.checkpoint, "weights": asked.weights}
    if asked.data is None and (asked.images or not is_run(asked.target)):
        loaded, data = load_model(asked.target, grey_range=asked.grey_range, **options), None
        if not asked.images:
            raise RecipeError(f"{asked.target} comes without data; give --images FILE ..., or a data set: --data")
    else:
        (loaded,), data = load_with_data(asked.target, asked.data, grey_range=asked.grey_range, **options)
    print(f"weights: {loaded.weights}")
    if asked.size is not None:
        loaded = loaded.resized(asked.size)
    device = distributed.start(asked.device).device
    loaded.model.to(device)
    if asked.images or data is None:
        files = [loaded.preprocessing.read(path) for path in asked.images]
        return _Scene(loaded, device, files.__getitem__, lambda one: asked.images[one].name, len(files))
    split, crop, classes = data.val, loaded.preprocessing.crop, data.classes

    def name(one: int) -> str:
        return classes[int(split.labels[one])]

    return _Scene(loaded, device, lambda one: crop(split.image(one)), name, len(split), data)


def _boxes(asked: Show, scene: _Scene, count: int) -> list[PastedBox]:
    height, width = scene.image(0).shape[-2:]
    labels = scene.split.labels if scene.split else None
    boxes = draw_boxes(count, scene.number, (height, width), asked.seed, scene.mixing.cutmix_alpha or 1.0, labels)
    if asked.what == "pair" and asked.images:
        boxes = [PastedBox(0, 1, boxes[0].box)]
    if asked.what == "pair" and asked.box is not None:
        boxes = [boxes[0]._replace(box=check_box(asked.box, height, width))]
    return boxes


def _pairs(asked: Show) -> Figure:
    scene, shown = _scene(asked), 1 if asked.what == "pair" else asked.count or 6
    drawn = asked.boxes if asked.what == "gallery" else shown
    boxes, downsample = _boxes(asked, scene, drawn), getattr(trained_rule(scene.mixing), "downsample", "nearest")
    judged = judge(scene.loaded.model, boxes, scene.image, scene.normalise, downsample=downsample)
    positions = most_disputed(judged, shown, empty=asked.empty) if asked.what == "gallery" else list(range(drawn))
    if not positions:
        raise ValueError(f"of {drawn} boxes none gets less of the attention than of the area; try more: --boxes")
    trained, note = _trained(scene, [boxes[one] for one in positions])
    pairs, notes = pairs_of(judged, positions, scene.image, scene.name, trained), (note,)
    if asked.what == "gallery":
        notes += (f"the {len(pairs)} of {drawn} boxes whose labels differ most",)
    return pairs_figure(pairs, judged.grid, width=asked.width, mask=asked.what == "pair", notes=notes)


def _trained(scene: _Scene, boxes: list[PastedBox]) -> tuple[list[float] | None, str]:
    """Return the labels of pairs as the run trains them, and a note on its rule; None and why where that cannot be."""
    rule, name, split = trained_rule(scene.mixing), rule_name(scene.mixing), scene.split
    foreground, no_masks = _foregrounds(scene, rule)
    reason = why_not(rule, split is not None, no_masks)
    classes = (lambda _: 0) if split is None else (lambda one: int(split.labels[one]))
    if not reason:
        try:
            labels = rule_labels(scene.loaded.model, rule, boxes, scene.image, scene.normalise, classes, foreground)
            return labels, trained_note(getattr(rule, "weight", None), name)
        except AttentionError as error:
            reason = str(error)
    return None, f"trained: labels by {name}, not drawn: {reason}"


def _foregrounds(scene: _Scene, rule: Rule) -> tuple[Callable[[int], Tensor] | None, str]:
    """Return where the objects of the scene's images are, if a rule needs it; or None, and why it is not known."""
    if scene.data is None or "foreground" not in rule.needs:
        return None, NO_MASKS
    try:
        return open_foregrounds(scene.data, scene.loaded.preprocessing.crop), ""
    except DataError as error:
        return None, str(error)


def _chosen(asked: Show, count: int) -> tuple[_Scene, Tensor, list[str]]:
    """Return the scene, images (B, 3, H, W) uint8 and names: the given files, or evenly spaced validation images."""
    scene = _scene(asked)
    positions = spaced(range(scene.number), asked.count or (scene.number if asked.images else count))
    return scene, torch.stack([scene.image(one) for one in positions]), [scene.name(one) for one in positions]


def _attention(asked: Show) -> Figure:
    scene, images, names = _chosen(asked, 6 if asked.what == "rollout" else 4)
    looked = look(scene.loaded.model, scene.normalise(images))
    grid, width, layers = looked.grid, asked.width, len(looked.maps)
    if asked.what == "heads":
        rows = head_rows(looked, asked.layer)
        return heads_figure(images, rows, grid, names, layer=asked.layer % layers, width=width)
    if asked.what == "layers":
        by_layer = {number: weights.mean(1) for number, weights in layer_rows(looked)}
        return layers_figure(images, by_layer, grid, names, width=width)
    return rollout_figure(images, looked.attention, rollout(looked), grid, names, layers=layers, width=width)


def _reliability(asked: Show) -> Figure:
    scene = _scene(replace(asked, images=()))
    assert scene.split is not None
    batches = evaluation_batches(scene.split, scene.loaded.preprocessing.crop, 128, choose_workers(0, True, 1), False)
    with torch.inference_mode():
        found = [(scene.loaded.model(scene.normalise(images)).float().cpu(), labels) for images, labels, _ in batches]
    logits, labels = map(torch.cat, zip(*found, strict=True))
    title = asked.target + (" (EMA)" if scene.loaded.name == "ema" else "")
    return reliability_figure(reliability(logits, labels), title=title, width=asked.width)


FIGURES: dict[str, Callable[[Show], Figure]] = {
    **dict.fromkeys(("pair", "sheet", "gallery"), _pairs),
    **dict.fromkeys(("heads", "layers", "rollout"), _attention),
    "epochs": lambda asked: examples_figure(Path(asked.target), asked.count, asked.width),
    "curves": lambda asked: curves_figure(read_curves(read_log(Path(asked.target))), width=asked.width),
    "reliability": _reliability,
}
