"""transmix predict: classes of image files."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import nn
from tqdm import tqdm

from transmix.cli.options import parse
from transmix.data.bad_images import BadImages, allowed_bad
from transmix.data.dataset import DataError
from transmix.evaluation.evaluate import Computing, prepare
from transmix.evaluation.features import classifier
from transmix.metrics import METRICS
from transmix.models.loaded import load_model, load_with_data
from transmix.predict.images import STDIN, check_words, image_paths
from transmix.predict.labels import Labels
from transmix.predict.page import Gallery, write_gallery
from transmix.predict.predictions import Predictor, class_names, fit_temperature
from transmix.predict.write import FORMATS, Write, lines, writer
from transmix.printable import printable
from transmix.recipes import RecipeError
from transmix.runs.error import RunError
from transmix.runs.weights import is_run


@dataclass(frozen=True)
class Predict:
    """Predict the classes of image files, and write them as a table and as a page.

    Exit code 0: every image has a prediction; 1: some cannot be read, they are in the output with the reason.
    """

    target: Annotated[str, tyro.conf.Positional, "what to predict"]
    """A run folder; an exported folder; a .safetensors file; or a timm name, whose published weights are used."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders (with their subfolders), globs in quotes; or - for a list on standard input, one path a
    line."""
    labels: str | None = None
    """CSV file with the columns image and label. None: the name of an image's own folder, where that is a class of the
    run; 'none': no labels."""
    out: Annotated[Path | None, "output"] = None
    """File to write: .csv, .jsonl or .parquet. None: lines on the terminal."""
    top: int = 5
    """Number of classes of each image, the most probable ones."""
    features: bool = False
    """Also write the input of the classifier, float32, to the column features of a .parquet file."""
    page: Path | None = None
    """HTML page to write: the least certain images and, with labels, the worst mistakes."""
    page_images: int = 100
    """Number of least certain images on the page."""
    checkpoint: Annotated[Literal["last", "best"], "model"] = "last"
    """Checkpoint of a run to use."""
    weights: Literal["auto", "model", "ema"] = "auto"
    """Weights of a run: 'model', the weights as trained; 'ema', their exponential moving average; 'auto', the EMA if
    there is one and its score is not far below the model's."""
    model: str | None = None
    """timm name of the model in a .safetensors file without that name in its metadata."""
    grey_range: tuple[float, float] | None = None
    """Pixel values for black and white in grey images of more than 8 bits; None: the range saved in the run."""
    temperature: float | Literal["fit"] = 1.0
    """Probabilities are the softmax of logits / temperature. 'fit': the temperature with the lowest cross-entropy on
    the run's own validation images."""
    computing: Annotated[Computing, "computing"] = field(default_factory=Computing)


def main(arguments: list[str]) -> int:
    """Parse the command line, predict, write, say on standard error what was done, and return the exit code."""
    asked = parse(Predict, "predict", arguments)
    _check(asked)
    predictor, labels, about = _open(asked)
    for name, text in about.items():
        _say(f"{name}: {text}")
    gallery, paths = Gallery(asked.page_images), image_paths(asked.images)
    try:
        with _output(asked, predictor, about) as write:
            for one in tqdm(
                predictor.predict(paths, labels), unit=" images", total=_count(asked), leave=False, disable=None
            ):
                write(one)
                gallery.add(one)
            if gallery.images == gallery.errors:  # raised here, so that no file is written
                raise DataError(_nothing(gallery))
    except KeyboardInterrupt:
        raise RunError("interrupted" + (f"; {asked.out} is not written" if asked.out else ""), 130) from None
    if gallery.labelled:
        about["labels"] = "names of the images' folders" if asked.labels is None else str(asked.labels)
    if asked.page:
        write_gallery(asked.page, gallery, predictor.evaluator, about)
    _say_end(asked, gallery, about)
    return 1 if gallery.errors else 0


def _check(asked: Predict) -> None:
    """Raise an error for options that cannot be, before anything is loaded."""
    check_words(asked.images)
    if asked.out and asked.out.suffix.lower() not in FORMATS:
        raise RecipeError(f"--out {asked.out}: predictions are written as {', '.join(FORMATS)}")
    if asked.page and asked.page.suffix.lower() not in (".html", ".htm"):
        raise RecipeError(f"--page {asked.page}: a page is written as .html")
    for name, path in (("out", asked.out), ("page", asked.page)):
        if path and not path.parent.is_dir():
            raise RecipeError(f"--{name} {path}: no folder {path.parent}; make it first")
    if asked.features and (not asked.out or asked.out.suffix.lower() != ".parquet"):
        raise RecipeError("--features are written to a column of a Parquet file; give --out FILE.parquet")
    for name in ("top", "page_images"):
        if getattr(asked, name) < 1:
            raise RecipeError(f"{name} must be at least 1, not {getattr(asked, name)}")
    if asked.temperature != "fit" and not 0 < asked.temperature < float("inf"):
        raise RecipeError(f"temperature must be a number above 0, or fit, not {asked.temperature}")
    if asked.temperature == "fit" and not is_run(asked.target):
        remedy = "transmix evaluate --suite calibration finds one on data of yours"
        raise RecipeError(f"--temperature fit needs a run, whose validation images it takes; give a number: {remedy}")


def _open(asked: Predict) -> tuple[Predictor, Labels | None, dict[str, str]]:
    """Return the model, where labels come from, and how predictions are made: name -> text."""
    options: dict[str, Any] = {name: getattr(asked, name) for name in ("model", "checkpoint", "weights", "grey_range")}
    if asked.temperature == "fit":
        (loaded,), data = load_with_data(asked.target, **options)
    else:
        loaded, data = load_model(asked.target, **options), None
    bad = BadImages(allowed_bad(loaded.recipe.data) if loaded.recipe else 0)
    names, note = class_names(loaded)
    (evaluator,) = prepare([loaded], bad=bad, **vars(asked.computing))
    if evaluator.world.size > 1:
        raise RecipeError("predict runs in one process; start it without torchrun, each with a part of the images")
    about = {"model": asked.target, "weights": loaded.weights} | ({"classes": note} if note else {})
    temperature = asked.temperature
    if temperature == "fit":
        assert data is not None
        temperature = fit_temperature(evaluator, data)
        about["temperature"] = (
            f"{temperature:.4g}, fitted on {len(data.val)} images of {data.name} ({data.parts.held_out})"
        )
    elif temperature != 1.0:
        about["temperature"] = f"{temperature:g}"
    if evaluator.tta != "none":
        about["test-time augmentation"] = evaluator.tta
    if asked.features:
        classifier(loaded.model)
    labels = None
    if asked.labels not in (None, "none"):
        labels = Labels(names, Path(asked.labels))
    elif asked.labels is None and loaded.classes is not None:
        labels = Labels(names)
    return Predictor(evaluator, names, min(asked.top, len(names)), temperature, asked.features), labels, about


def _output(asked: Predict, predictor: Predictor, about: dict[str, str]) -> AbstractContextManager[Write]:
    if asked.out is None:
        return lines()
    layer = classifier(predictor.evaluator.model) if asked.features else None
    if isinstance(layer, nn.Identity):
        raise RecipeError(f"{asked.target} has no classifier, and so no predictions to write features beside")
    return writer(asked.out, predictor.top, layer and layer.in_features, about)


def _count(asked: Predict) -> int | None:
    """Return the number of images for the progress bar; None without a bar, or if a list still comes."""
    return None if STDIN in asked.images or not sys.stderr.isatty() else sum(1 for _ in image_paths(asked.images))


def _nothing(gallery: Gallery) -> str:
    if not gallery.broken:
        return "no images: the list on standard input is empty"
    return f"none of {gallery.images} images can be read; the first: {': '.join(gallery.broken[0])}"


def _say_end(asked: Predict, gallery: Gallery, about: dict[str, str]) -> None:
    """Say what was found and written."""
    if gallery.labelled:
        top1, share = METRICS["top1"], gallery.right / gallery.labelled
        _say(f"labels: {about['labels']}, of {gallery.labelled} of {gallery.images} images")
        _say(f"{top1.label}: {top1.write(share)} of them")
    elif asked.labels not in (None, "none"):
        _say(f"warning: {asked.labels} has the label of no image; it names them as they are given here, or in full")
    for image, error in gallery.broken[:3]:
        _say(f"no prediction: {image}: {error}")
    if gallery.errors:
        _say(f"{gallery.errors} of {gallery.images} images have no prediction; the output says why of each")
    for path in filter(None, (asked.out, asked.page)):
        _say(f"written to {path}")


def _say(text: str) -> None:
    """Print a line on standard error: standard output may be the table."""
    print(printable(text), file=sys.stderr)
