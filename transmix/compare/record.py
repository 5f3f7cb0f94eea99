"""A comparison as what JSON takes: every number, in the log's units (shares in 0..1, nats, seconds)."""

from typing import Any

from transmix.compare.comparison import Comparison, scores_of
from transmix.compare.read import Trained, number
from transmix.compare.statistics import LEVEL, Difference


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return all numbers: groups with their runs, and differences."""
    return {
        "compared": comparison.score,
        "baseline": comparison.baseline,
        "level": LEVEL,
        "cautions": list(comparison.cautions),
        "groups": [
            {
                "name": group.name,
                "mix": group.runs[0].settings["mix"],
                "seeds": [run.seed for run in group.finished],
                "means": {
                    name: {"n": mean.n, "mean": mean.mean, "sd": mean.sd}
                    for name, mean in comparison.means[group.name].items()
                },
                "runs": [_run_as_json(run, comparison.score) for run in group.runs],
            }
            for group in comparison.groups
        ],
        "differences": [
            {
                "group": one.group,
                "baseline": one.baseline,
                "common": one.common,
                "same_draws": one.shared.same,
                "same_boxes": one.shared.same_boxes,
                "verdict": one.verdict,
                "p_holm": one.p_holm,
                "scores": {name: _difference_as_json(value) for name, value in one.scores.items()},
            }
            for one in comparison.compared
        ],
    }


def best_epoch(run: Trained, score: str) -> tuple[float, int] | None:
    """Return the best score of any epoch and that epoch: optimistic, as it is chosen on what it is measured on."""
    known = [(float(row[score]), -row["epoch"]) for row in run.epochs if number(row.get(score)) and "epoch" in row]
    value, epoch = max(known, default=(0.0, 0))
    return (value, -epoch) if known else None


def _run_as_json(run: Trained, score: str) -> dict[str, Any]:
    best = best_epoch(run, score)
    return {
        "folder": str(run.folder),
        "seed": run.seed,
        "finished": run.finished,
        "epochs": len(run.epochs),
        "scores": scores_of(run),
        "best": None if best is None else {"score": best[0], "epoch": best[1]},
        "environment": run.environment,
    }


def _difference_as_json(found: Difference) -> dict[str, Any]:
    return {
        "n": len(found.seeds),
        "seeds": list(found.seeds),
        "each": list(found.each),
        "mean": found.mean,
        "sd": found.sd,
        "low": found.low,
        "high": found.high,
        "p": found.p,
    }
