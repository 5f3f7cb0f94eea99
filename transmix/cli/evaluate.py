"""transmix evaluate: the scores of a model, and suites of further measures."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from transmix import distributed
from transmix.cli.options import parse
from transmix.data.bad_images import BadImages
from transmix.data.dataset import ImageData, listing
from transmix.evaluation.evaluate import Computing, Evaluator, prepare, score
from transmix.evaluation.suites import Settings, run_suites
from transmix.metrics import headlines
from transmix.models.loaded import load_with_data
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
    all: every suite that fits the model and data. Installed packages may add more."""
    data: str | None = None
    """Data set; its validation split is used. Default: the run's own data. Classes are matched by name."""
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
    """JSON file for the scores; default: evaluation.json in the run folder."""
    computing: Annotated[Computing, "computing"] = field(default_factory=Computing)
    settings: Annotated[Settings, "suites"] = field(default_factory=Settings)


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a few lines for the scores and for each suite, and write JSON.

    Under torchrun every process evaluates its share; rank 0 prints and writes.
    """
    asked = parse(Evaluate, "evaluate", arguments)
    if (asked.settings.shift_data or asked.settings.outlier_data) and not {"shifts", "all"} & set(asked.suite):
        raise RecipeError("--shift-data and --outlier-data are for the suite 'shifts'; ask for it: --suite shifts")
    wanted = ("data", "model", "checkpoint", "grey_range", "download", "data_dir")
    models, data = load_with_data(asked.target, **{name: getattr(asked, name) for name in wanted})
    bad = BadImages(asked.max_bad_images if asked.on_bad_image == "skip" else 0)
    evaluators = prepare(models, bad=bad, **vars(asked.computing))
    try:
        with distributed.losing_others(evaluators[0].world, "start it again"):
            _measure(asked, evaluators, data, bad)
    finally:
        distributed.stop()


def _measure(asked: Evaluate, evaluators: list[Evaluator], data: ImageData, bad: BadImages) -> None:
    is_main, loaded = evaluators[0].world.is_main, evaluators[0].loaded
    out = asked.out or (Path(asked.target) / "evaluation.json" if is_run(asked.target) else None)
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
    scores = score(evaluators, data)
    about = {"target": asked.target, "data": data.name, "checkpoint": asked.checkpoint}
    about |= {"tta": evaluators[0].tta} if evaluators[0].tta != "none" else {}
    result = about | {"held_out": data.parts.held_out, "weights": weights, "scores": scores}
    if is_main:
        print(f"{printable(data.name)}: {len(data.val)} images ({printable(result['held_out'])})")
        print(*data.notes, sep="\n", end="\n" if data.notes else "")
        print_scores(scores, data.classes)
        model, ema = scores["model"], scores.get("ema", {})
        both = {"top1": model["top1"], "ema_top1": ema.get("top1"), "val_images": model["images"]}
        if ema_is_far_below(both):
            print(f"warning: the EMA is far below the model: {gap(both)}")
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


def _as_json(value: Any) -> str:
    """Return valid JSON: NaN and infinity become null."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=1)


def print_scores(scores: dict[str, dict[str, Any]], classes: tuple[str, ...]) -> None:
    """Print a line per score; the first one also names the class with the lowest accuracy."""
    lines = _lines(None, scores)
    weights, last = list(scores.items())[-1]
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
