"""Choose which weights of a run to use (model or EMA), and explain the choice."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transmix.metrics import METRICS
from transmix.runs.checkpoint import newest_checkpoint, verify_checkpoint
from transmix.runs.error import RunError
from transmix.runs.folder import read_best_step
from transmix.runs.log import read_rows

FAR = 0.05
"""An EMA whose top-1 is this much below its model's, and beyond chance, does not stand for it."""

NAMES = {"model": "model", "ema": "EMA"}
"""What the two sets of weights are called: as trained, and their exponential moving average."""


@dataclass(frozen=True)
class RunWeights:
    """The chosen weights of a run.

    Attributes:
        folder: the checkpoint.
        checkpoint: "last" or "best", as requested.
        step: optimizer step of the checkpoint.
        name: "model" or "ema".
        why: reason for the choice.
        scores: scores of these weights in the log at this step; empty if there was no evaluation.
    """

    folder: Path
    checkpoint: str
    step: int
    name: str
    why: str
    scores: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line: which weights, of which step, and why."""
        return f"{weights_text([self.name], self.step, self.checkpoint)}: {self.why}"


def weights_text(names: Sequence[str], step: int, checkpoint: str) -> str:
    """Name the weights of a checkpoint: 'model and EMA of step 640 (last checkpoint)'."""
    return f"{' and '.join(NAMES[name] for name in names)} of step {step} ({checkpoint} checkpoint)"


def ema_is_far_below(scores: Mapping[str, Any]) -> bool:
    """Whether the EMA's top-1 is below the model's by more than `FAR` and by more than chance.

    Chance means two standard errors of the difference of two accuracies on n images, 2 sqrt(2 p (1 - p) / n) with p
    their mean.

    Args:
        scores: "top1" and "ema_top1" in 0..1; "val_images", n, if known: logs of older versions lack it.
    """
    ema, model, images = (scores.get(name) for name in ("ema_top1", "top1", "val_images"))
    if not (isinstance(ema, int | float) and isinstance(model, int | float)):
        return False
    share = (ema + model) / 2
    chance = 2 * math.sqrt(max(2 * share * (1 - share), 0) / images) if images else 0.0
    return model - ema > max(FAR, chance)


def better_weights(scores: Mapping[str, Any]) -> str:
    """Return the weights to use at an evaluated step: "ema" if the run has one that is not far below, else "model"."""
    return "ema" if "ema_top1" in scores and not ema_is_far_below(scores) else "model"


def gap(scores: Mapping[str, Any]) -> str:
    """Return a text with the top-1 of the EMA and of the model."""
    top1 = METRICS["top1"]
    return f"EMA {top1.label} {top1.write(scores['ema_top1'])}, model {top1.write(scores['top1'])}"


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a run folder."""
    return (Path(folder) / "recipe.yaml").exists()


def kept_weights(run: Path, checkpoint: str = "last") -> list[str]:
    """Return the names of a run's weights: "model" and perhaps "ema"; errors as in `choose_weights`."""
    folder = _checkpoint(run, checkpoint)
    return [name for name in NAMES if (folder / f"{name}.safetensors").exists()]


def choose_weights(run: Path, checkpoint: str = "last", weights: str = "auto") -> RunWeights:
    """Choose the weights of a run.

    Args:
        run: run folder.
        checkpoint: "last": the newest valid one; "best": the one with the best validation score.
        weights: "model"; "ema"; "auto": the EMA if the run has one, unless its score is far below the model's.

    Raises:
        RunError, CheckpointError: no checkpoint, no evaluated one, a damaged one, or no EMA.
    """
    folder = _checkpoint(run, checkpoint)
    step, has_ema = int(folder.name.removeprefix("step-")), (folder / "ema.safetensors").exists()
    rows = read_rows(run / "metrics.jsonl")
    scores = next((row for row in rows if (row["kind"], row["step"]) == ("epoch", step) and "top1" in row), {})
    if weights == "ema" and not has_ema:
        raise RunError(f"{run} has no EMA (ema_decay was not set); use --weights model")
    if weights != "auto":
        name, why = weights, f"asked for with --weights {weights}"
        if name == "ema" and ema_is_far_below(scores):
            why += f"; warning: it is far below ({gap(scores)})"
    elif not has_ema:
        name, why = "model", "the run has no EMA"
    elif ema_is_far_below(scores):
        name, why = "model", f"the EMA is far below ({gap(scores)}); --weights ema takes it all the same"
    else:
        name, why = "ema", "the run kept an EMA" + (f" ({gap(scores)})" if "ema_top1" in scores else "")
    prefix = "ema_" if name == "ema" else ""
    logged = ("top1", "top5", "val_loss", "calibration_error")
    found = {one: scores[prefix + one] for one in logged if prefix + one in scores}
    return RunWeights(folder, checkpoint, step, name, why, found | {"epoch": scores["epoch"]} if found else {})


def _checkpoint(run: Path, which: str) -> Path:
    if which == "best":
        best = run / "checkpoints" / f"step-{read_best_step(run):08d}"
        verify_checkpoint(best)
        return best
    newest, problems = newest_checkpoint(run / "checkpoints")
    if newest is None:
        raise RunError(" ".join([f"{run} holds no whole checkpoint.", *problems]))
    return newest


def start_weights(init: str | None) -> str | None:
    """Return the source of initial weights: the last weights of a run folder, else `init` unchanged.

    Raises:
        RunError, CheckpointError: the run has no usable weights.
    """
    if init is None or not is_run(init):
        return init
    chosen = choose_weights(Path(init))
    return str(chosen.folder / f"{chosen.name}.safetensors")
