"""transmix evaluate: the scores of a run, of a timm model, or of a weights file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from transmix.cli.options import parse
from transmix.data.bad import BadImages
from transmix.data.dataset import listing, printable
from transmix.evaluation.subject import evaluate_subject, open_subject


@dataclass(frozen=True)
class Evaluate:
    """Measure top-1, top-5, loss, calibration error and per-class accuracy of a run, a timm model or a weights file."""

    target: Annotated[str, tyro.conf.Positional]
    """A run folder; a .safetensors file; or the name of a timm model, whose published weights are used."""
    data: str | None = None
    """Data set to evaluate on, its validation split; a run's own if not given. Classes are matched by name."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of a run."""
    model: str | None = None
    """timm name of the model in a .safetensors file that does not say so itself."""
    batch_size: int = 128
    """Images at once."""
    device: str = "auto"
    """'auto': cuda where there is one, else cpu."""
    workers: int | None = None
    """Processes that load images; None: what the cores allow."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Autocast type."""
    on_bad_image: Literal["error", "skip"] = "error"
    """'skip': leave images that cannot be read out of all scores, and name them."""
    max_bad_images: int = 100
    """How many may be skipped; more are an error."""
    out: Path | None = None
    """Where the scores are written as JSON; a run's own folder (evaluation.json) if not given."""


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a table and write JSON."""
    asked = parse(Evaluate, "evaluate", arguments)
    subject = open_subject(asked.target, checkpoint=asked.checkpoint, model=asked.model, data=asked.data)
    bad = BadImages(asked.max_bad_images if asked.on_bad_image == "skip" else 0)
    scores = evaluate_subject(
        subject, batch_size=asked.batch_size, device=asked.device, workers=asked.workers, amp=asked.amp, bad=bad
    )
    print_scores(scores, subject.classes)
    if bad.known:
        print(f"left out because they cannot be read: {listing(sorted(bad.known), len(bad.known))}")
    out = asked.out or (Path(asked.target) / "evaluation.json" if Path(asked.target).is_dir() else None)
    if out is not None:
        result = {"target": asked.target, "data": subject.data.name, "checkpoint": asked.checkpoint, "scores": scores}
        out.write_text(json.dumps(result, indent=1))
        print(f"written to {out}")


def print_scores(scores: dict[str, dict[str, Any]], classes: tuple[str, ...]) -> None:
    """Print one column per set of weights, then the classes that are recognised worst."""
    print(" " * 20 + "".join(f"{name:>10}" for name in scores))
    for metric, label, factor in (
        ("top1", "top-1 (%)", 100),
        ("top5", "top-5 (%)", 100),
        ("loss", "loss", 1),
        ("calibration_error", "calibration error (%)", 100),
        ("images", "images", 1),
    ):
        cells = (f"{factor * found[metric]:>10.{0 if metric == 'images' else 2}f}" for found in scores.values())
        print(f"{label:<20}" + "".join(cells))
    last = list(scores.values())[-1]["per_class_accuracy"]
    worst = sorted(zip(last, classes, strict=True))[:5]
    print("worst classes       " + ", ".join(f"{printable(name)} {100 * accuracy:.1f} %" for accuracy, name in worst))
