"""transmix evaluate: the scores of a model, and suites of further measures."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from transmix import distributed
from transmix.cli.options import parse
from transmix.data.bad_images import BadImages
from transmix.data.dataset import ImageData, listing
from transmix.data.evaluated import Asked
from transmix.evaluation.evaluate import Computing, Evaluator, prepare, score
from transmix.evaluation.present import NAME as PRESENT
from transmix.evaluation.present import class_gaps, own_accuracies
from transmix.evaluation.suites import OF_FEATURES, Settings, run_suites
from transmix.metrics import METRICS, headlines, says_something
from transmix.models.loaded import LoadedModel, load_with_data
from transmix.printable import printable
from transmix.recipes import RecipeError
from transmix.runs.weights import NAMES, ema_is_far_below, gap, is_run, weights_text

MOST_LINES = 5
"""Lines of scores, and of each suite; everything is in the JSON."""


@dataclass(frozen=True)
class Evaluate:
    """Measure top-1, top-5, loss, calibration error and per-class accuracy of a model.

    Suites measure more, on the same images unless they have their own data.
    """

    target: Annotated[str, tyro.conf.Positional, "what to measure"]
    """A run folder; an exported folder; a .safetensors file; or a timm name, whose published weights are used."""
    suite: tuple[str, ...] = ()
    """Extra suites to run. calibration: calibration errors, AURRA, Brier score, temperature scaling; occlusion:
    accuracy without some of the patches; shuffle: accuracy on shuffled patches; shifts: scores on --shift-data and
    --outlier-data; attention-quality: class token's attention against masks; label-truth: mixed labels against masks;
    knn: nearest training images by features; linear-probe: logistic regression on features; segmentation-probe: linear
    layer on patch tokens against masks; all: every suite that fits the model and data. Installed packages may add more.
    Asked for alone, those of features take data of any classes."""
    data: str | None = None
    """Data set to measure on, as for `transmix train`, or class folders or a label list not divided into parts.
    Default: the run's own data. Classes are matched by name; some of the run's are enough."""
    split: str | None = None
    """Part of the data to measure on: train, val, test, or the name of another part. Default: the one that the run held
    out; of --data the validation part, else the test part, else all images."""
    image_column: str | None = None
    """Column with the images in Parquet files and label lists; None: the run's own, of --data found by its name."""
    label_column: str | None = None
    """Column with the labels in Parquet files and label lists; None: the run's own, of --data found by its name."""
    download: str | None = None
    """Folder to download a torchvision:NAME data set to, unless its files are there."""
    data_dir: str | None = None
    """Folder with the files of a torchvision:NAME data set; nothing is downloaded. None: a run's own, else data."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint of a run to use."""
    model: str | None = None
    """timm name of the model in a .safetensors file without that name in its metadata."""
    grey_range: tuple[float, float] | None = None
    """Pixel values for black and white in grey images of more than 8 bits; None: the range saved in the run or weights
    file, else the minimum and maximum over the training images in --data."""
    on_bad_image: Annotated[Literal["error", "skip"], "bad images and output"] = "error"
    """'skip': exclude unreadable images from all scores, and list them."""
    max_bad_images: int = 100
    """Maximum number of skipped images; more are an error."""
    out: Path | None = None
    """JSON file for the scores; default: evaluation.json in the run folder, with --data or --split
    evaluation_DATA_SPLIT.json."""
    computing: Annotated[Computing, "computing"] = field(default_factory=Computing)
    settings: Annotated[Settings, "suites"] = field(default_factory=Settings)


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a few lines for the scores and for each suite, and write JSON.

    Under torchrun every process evaluates its share; rank 0 prints and writes.
    """
    asked = parse(Evaluate, "evaluate", arguments)
    if (asked.settings.shift_data or asked.settings.outlier_data) and not {"shifts", "all"} & set(asked.suite):
        raise RecipeError("--shift-data and --outlier-data are for the suite 'shifts'; ask for it: --suite shifts")
    options = {name: getattr(asked, name) for name in ("data", "model", "checkpoint", "grey_range")}
    places = Asked(asked.split, asked.image_column, asked.label_column, asked.download, asked.data_dir)
    of_features = bool(asked.suite) and {*asked.suite} <= {*OF_FEATURES}
    models, data = load_with_data(asked.target, **options, asked=places, any_classes=of_features)
    bad = BadImages(asked.max_bad_images if asked.on_bad_image == "skip" else 0)
    evaluators = prepare(models, bad=bad, **vars(asked.computing))
    try:
        with distributed.losing_others(evaluators[0].world, "start it again"):
            _measure(asked, evaluators, data, bad)
    finally:
        distributed.stop()


def _measure(asked: Evaluate, evaluators: list[Evaluator], data: ImageData, bad: BadImages) -> None:
    is_main, loaded = evaluators[0].world.is_main, evaluators[0].loaded
    out = asked.out or (Path(asked.target) / _file_name(asked, data) if is_run(asked.target) else None)
    if out is not None and not out.parent.is_dir():
        raise RecipeError(f"--out {out}: no folder {out.parent}; make it first")
    suites = run_suites(asked.suite, evaluators, data, asked.settings)  # here: what they lack is found first
    weights = loaded.weights
    if loaded.chosen:
        weights = weights_text([one.name for one in evaluators], loaded.chosen.step, asked.checkpoint)
    if is_main:
        print(f"weights: {weights}")
        if evaluators[0].tta != "none":
            print(f"test-time augmentation: {evaluators[0].tta}, of every score below")
        if out is None:
            print("note: only the lines below are kept; --out FILE.json takes everything that is measured")
    scores = score(evaluators, data) if loaded.classes else {}
    about = {"target": asked.target, "data": data.name, "checkpoint": asked.checkpoint}
    about |= {"tta": evaluators[0].tta} if evaluators[0].tta != "none" else {}
    result = about | {"held_out": data.parts.held_out, "weights": weights, "scores": scores}
    if is_main:
        print(f"{printable(data.name)}: {len(data.val)} images ({printable(result['held_out'])})")
        print(*data.notes, sep="\n", end="\n" if data.notes else "")
        if scores:
            print_scores(scores, data.classes)
            _warn_of_ema(scores)
            result |= _of_present_classes(asked, loaded, data, scores)
    for suite, found in suites:
        result[suite] = found
        if is_main:
            print_suite(suite, found)
    bad.join(distributed.gather(bad.known, evaluators[0].world))
    if not is_main:
        return
    if bad.known:
        print(f"left out because they cannot be read: {listing(sorted(bad.known), len(bad.known))}")
    if out is not None:
        out.write_text(_as_json(result))
        print(f"written to {out}")


def _warn_of_ema(scores: dict[str, dict[str, Any]]) -> None:
    model, ema = scores["model"], scores.get("ema", {})
    both = {"top1": model["top1"], "ema_top1": ema.get("top1"), "val_images": model["images"]}
    if ema_is_far_below(both):
        print(f"warning: the EMA is far below the model: {gap(both)}")


def _file_name(asked: Evaluate, data: ImageData) -> str:
    """Return the name of the JSON file in the run folder; that of the run's own validation stays for itself."""
    if asked.data is None and asked.split is None:
        return "evaluation.json"
    named = "_".join(filter(None, (data.name if asked.data else "", asked.split or data.parts.held_out)))
    return f"evaluation_{re.sub(r'[^A-Za-z0-9.-]+', '-', named)[:80]}.json"


def _of_present_classes(
    asked: Evaluate, loaded: LoadedModel, data: ImageData, scores: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Print and return the scores among the classes that have images, and the gap to the run's own validation.

    The former where some classes have none, the latter with --data and --split.
    """
    found: dict[str, Any] = {}
    among = {name: one.pop("among_present") for name, one in scores.items() if "among_present" in one}
    if among:
        found[PRESENT] = among
        count = next(iter(among.values()))["classes"]
        print(f"\namong the {count} of {len(data.classes)} classes that are here, without the others' outputs")
        _print(_lines(PRESENT, among))
    if loaded.chosen is None or (asked.data is None and asked.split is None):
        return found
    own, why = own_accuracies(Path(asked.target), loaded.chosen.step)
    if asked.computing.tta != "none":
        why = "the run measured it without test-time augmentation"
    weights, last = list(scores.items())[-1]
    rows = class_gaps(last["per_class_accuracy"], data.val.labels, data.classes, own)
    of = NAMES.get(weights, weights)
    if why:
        print(f"\nthe gap of each class to the run's own validation is not known: {why}")
        return found
    print(f"\naccuracy of each class here, on the run's own validation, and the gap ({of}, over all outputs)")
    _print([_gap_line(row) for row in rows])
    return found | {"classes_against_own_validation": {"weights": weights, "rows": rows}}


def _gap_line(row: dict[str, Any]) -> str:
    top1 = METRICS["top1"]
    own = "no image there" if row["own_validation"] is None else top1.write(row["own_validation"])
    gap = "" if row["gap"] is None else f", {top1.write_difference(row['gap'])} {top1.difference_unit}"
    return f"{row['class']}: {top1.write(row['accuracy'])} of {row['images']} images, {own}{gap}"


def _as_json(value: Any) -> str:
    """Return valid JSON: NaN and infinity become null."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=1)


def print_scores(scores: dict[str, dict[str, Any]], classes: tuple[str, ...]) -> None:
    """Print a line per score; the first one also names the class with the lowest accuracy."""
    weights, last = list(scores.items())[-1]
    tells = lambda name: says_something(name, len(classes))  # noqa: E731
    lines = _lines(None, {of: {name: one[name] for name in filter(tells, one)} for of, one in scores.items()})
    accuracies = zip(last["per_class_accuracy"], classes, strict=True)
    if seen := [(accuracy, name) for accuracy, name in accuracies if accuracy == accuracy]:  # not nan
        accuracy, name = min(seen)
        lines[0] += f"; worst class {printable(name)}: {NAMES.get(weights, weights)} {100 * accuracy:.1f} %"
    _print(lines)


def print_suite(suite: str, found: dict[str, dict[str, Any]]) -> None:
    """Print a suite's main scores, and how they were measured if there is room."""
    said = {name: value for values in found.values() for name, value in values.items() if isinstance(value, str)}
    lines = _lines(suite, found)
    room = max(MOST_LINES - len(lines), 0)
    print(f"\n{suite}")
    _print(lines + [f"{name.replace('_', ' ')}: {value}" for name, value in said.items()][:room])


def _lines(suite: str | None, found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line per score: its label, its value for each set of weights, and whether higher or lower is better."""
    figures = headlines(suite, found)
    width = max((len(metric.label) for metric, _ in figures), default=0)
    lines = []
    for metric, values in figures:
        shown = ", ".join(f"{NAMES.get(weights, weights)} {metric.write(value)}" for weights, value in values.items())
        better = f" ({metric.better} is better)" if metric.better else ""
        lines.append(f"{metric.label:<{width}}  {shown}{better}")
    return lines


def _print(lines: list[str]) -> None:
    more = len(lines) - MOST_LINES
    if more > 0:
        lines = [*lines[: MOST_LINES - 1], f"{more + 1} more figures are in the JSON"]
    print(*map(printable, lines), sep="\n")
