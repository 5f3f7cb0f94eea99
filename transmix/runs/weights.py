"""Which of a run's weights stand for it, and why, in the words that every command uses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transmix.metrics import METRICS
from transmix.runs.checkpoint import newest_checkpoint, verify_checkpoint
from transmix.runs.error import RunError
from transmix.runs.folder import read_best_step
from transmix.runs.log import read_rows

FAR = 0.05
"""An average (EMA) whose top-1 is this much below its model's, and beyond chance, does not stand for it."""

NAMES = {"model": "weights as trained", "ema": "EMA"}
"""What the two sets of weights are called."""


@dataclass(frozen=True)
class RunWeights:
    """The weights of a run that a command takes.

    Attributes:
        folder: the checkpoint.
        checkpoint: "last" or "best", as it was asked for.
        step: optimizer step of the checkpoint.
        name: "model" or "ema".
        why: these and not the other.
        scores: what the run logged at this step; empty if it was not evaluated there.
    """

    folder: Path
    checkpoint: str
    step: int
    name: str
    why: str
    scores: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line: which weights, of which step, and why."""
        return f"{NAMES[self.name]} of step {self.step} ({self.checkpoint} checkpoint): {self.why}"


def ema_is_far_below(scores: Mapping[str, Any]) -> bool:
    """Whether the top-1 of the average is further below that of the model than `FAR` and than chance explains.

    Chance is two standard errors of a difference of two shares of n images, 2 sqrt(2 p (1 - p) / n) with p their mean.

    Args:
        scores: "top1" and "ema_top1" in 0..1; "val_images", n, where it is known: logs of older versions lack it.
    """
    ema, model, images = (scores.get(name) for name in ("ema_top1", "top1", "val_images"))
    if not (isinstance(ema, int | float) and isinstance(model, int | float)):
        return False
    share = (ema + model) / 2
    chance = 2 * math.sqrt(max(2 * share * (1 - share), 0) / images) if images else 0.0
    return model - ema > max(FAR, chance)


def better_weights(scores: Mapping[str, Any]) -> str:
    """Return whose score stands for an evaluated step: "ema" where an average was kept and is not far below."""
    return "ema" if "ema_top1" in scores and not ema_is_far_below(scores) else "model"


def gap(scores: Mapping[str, Any]) -> str:
    """Return the top-1 of the average and of its model in words."""
    top1 = METRICS["top1"]
    return f"EMA {top1.label} {top1.write(scores['ema_top1'])}, weights as trained {top1.write(scores['top1'])}"


def choose_weights(run: Path, checkpoint: str = "last", weights: str = "auto", purpose: str = "open") -> RunWeights:
    """Choose the weights of a run.

    Args:
        run: its folder.
        checkpoint: "last", the newest that is whole; "best", that of the best validation score.
        weights: "model"; "ema", their average; "auto", the average where the run kept one, unless its score is far
            below the model's.
        purpose: what for, in the error.

    Raises:
        RunError, CheckpointError: no checkpoint, none evaluated, a damaged one, or no average.
    """
    folder = _checkpoint(run, checkpoint, purpose)
    step, has_ema = int(folder.name.removeprefix("step-")), (folder / "ema.safetensors").exists()
    rows = read_rows(run / "metrics.jsonl")
    scores = next((row for row in rows if (row["kind"], row["step"]) == ("epoch", step) and "top1" in row), {})
    if weights == "ema" and not has_ema:
        raise RunError(f"{run} kept no average of its weights (ema_decay was not set); use --weights model")
    if weights != "auto":
        name, why = weights, f"asked for with --weights {weights}"
    elif not has_ema:
        name, why = "model", "the run kept no average"
    elif ema_is_far_below(scores):
        name, why = "model", f"the average is far below ({gap(scores)}); --weights ema takes it all the same"
    else:
        name, why = "ema", "the run kept an average" + (f" ({gap(scores)})" if "ema_top1" in scores else "")
    if name == "ema" and weights == "ema" and ema_is_far_below(scores):
        why += f"; warning: it is far below ({gap(scores)})"
    return RunWeights(folder, checkpoint, step, name, why, scores)


def _checkpoint(run: Path, which: str, purpose: str) -> Path:
    if which == "best":
        best = run / "checkpoints" / f"step-{read_best_step(run):08d}"
        verify_checkpoint(best)
        return best
    newest, problems = newest_checkpoint(run / "checkpoints")
    if newest is None:
        raise RunError(f"{run} holds no checkpoint to {purpose}. {' '.join(problems)}")
    return newest


def start_weights(init: str | None) -> str | None:
    """Return what a model starts from: of a run's folder the file of its last weights, else `init` as it is.

    Raises:
        RunError, CheckpointError: the run has no weights that could be used.
    """
    if init is None or not (Path(init) / "recipe.yaml").exists():
        return init
    chosen = choose_weights(Path(init), purpose="start from")
    return str(chosen.folder / f"{chosen.name}.safetensors")
