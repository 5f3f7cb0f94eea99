"""What came out of each run of the experiment on small objects, and what it says: docs/experiments.md.

    python benchmarks/small_objects/outcomes.py FOLDER...      into benchmarks/results/experiment_small_objects.json
    python benchmarks/small_objects/page.py                    that file into the page and its figures

FOLDER holds runs of `train.py`; there may be several, and unfinished runs in them, which are listed as such.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "compare"))
from arms import ARMS, SETTINGS
from suites import measure

from transmix.compare.statistics import Difference, difference, holm
from transmix.runs.read import RunRecord, read_run

RESULTS = Path(__file__).resolve().parents[1] / "results" / "experiment_small_objects.json"

HALF, LEFT_CHANCE = 0.5, 0.2
"""EMA top-1 that a run is timed to, and that a run which has left chance level (0.1) has at the end."""

NAMES = {f"{setting}-{arm}": (setting, arm) for setting in SETTINGS for arm in ARMS}
"""Start of a run folder's name -> its setting and arm."""

OUTCOMES = ("top1", "nll")
PRIMARY = {
    "main": (("oracle", "area"), ("oracle", "control"), ("transmix", "area")),
    "more": tuple((arm, "area") for arm in ("line", "transmix-shifted", "clean-view", "clean-view-and-area")),
}
"""Stage -> the comparisons that are tested, each by both outcomes, and corrected together."""

WITHIN = {"top1": 0.005, "nll": 0.01}
"""The stop rule: intervals of oracle - area as narrow as this are worth nothing."""


def outcome(run: RunRecord) -> dict[str, Any]:
    """Return the outcomes of one run: its name's parts, and if it is finished, scores of the EMA."""
    setting, arm = NAMES[run.folder.name.rpartition("-seed")[0]]
    found: dict[str, Any] = {"setting": setting, "arm": arm, "seed": run.seed, "finished": run.finished}
    if not run.finished:
        return found
    curve = [row["ema_top1"] for row in run.epochs]
    scores = measure(run.folder, ("calibration", "--threads", "1", "--workers", "0"))["calibration"]["ema"]
    return found | {
        "top1": curve[-1],
        "nll": scores["loss_after"],
        "nll_before": scores["loss_before"],
        "temperature": scores["temperature"],
        "steps_to_half": steps_to(HALF, curve, [row["step"] for row in run.epochs]),
        "last_step": run.epochs[-1]["step"],
        "left_chance": curve[-1] >= LEFT_CHANCE,
        "label_shift": run.epochs[-1].get("label_shift"),
        "curve": curve,
    }


def steps_to(score: float, curve: Sequence[float], steps: Sequence[int]) -> int:
    """Return the first step at which a curve has reached a score; if it never has, one step more than the last."""
    return next((step for step, value in zip(steps, curve, strict=True) if value >= score), steps[-1] + 1)


def of_arms(runs: Sequence[Mapping[str, Any]], setting: str, name: str) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> one outcome, of the finished runs with a setting and seeds below 100."""
    arms: dict[str, dict[int, float]] = {}
    for run in runs:
        if run["setting"] == setting and run["finished"] and run["seed"] < 100:
            arms.setdefault(run["arm"], {})[run["seed"]] = run[name]
    return arms


def compared(
    runs: Sequence[Mapping[str, Any]], stage: str
) -> dict[tuple[str, str, str], tuple[Difference, float | None]]:
    """Return (arm, baseline, outcome) -> difference over seeds, and its p corrected over the stage's tests."""
    found = {}
    for name in OUTCOMES:
        arms = of_arms(runs, "stable", name)
        for arm, baseline in PRIMARY[stage]:
            if (one := difference(arms.get(arm, {}), arms.get(baseline, {}))) is not None:
                found[arm, baseline, name] = one
    tested = {key: one.p for key, one in found.items() if one.p is not None}
    raised = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: (one, raised.get(key)) for key, one in found.items()}


def wins(found: Mapping[tuple[str, str, str], tuple[Difference, float | None]], arm: str) -> bool:
    """Whether an arm beats area by the rule that was written down: better in one outcome, and worse in none."""
    better = {"top1": 1, "nll": -1}
    better_in = worse_in = 0
    for name, sign in better.items():
        one, raised = found[arm, "area", name]
        if raised is not None and raised < 0.05 and sign * one.mean > 0:
            better_in += 1
        if one.p is not None and one.p < 0.05 and sign * one.mean < 0:
            worse_in += 1
    return better_in > 0 and worse_in == 0


def stops(found: Mapping[tuple[str, str, str], tuple[Difference, float | None]]) -> bool:
    """Whether the stop rule holds: both intervals of oracle - area lie within `WITHIN`."""
    ends = [(found["oracle", "area", name][0], WITHIN[name]) for name in OUTCOMES]
    return all(one.low is not None and -limit <= one.low and one.high <= limit for one, limit in ends)  # type: ignore[operator]


def signed_rank(values: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    """Return the p of Wilcoxon's signed-rank test over the shared seeds; 1 if no seed differs.

    Differences of 0 share the lowest ranks, half to each side (Pratt 1959).
    """
    from scipy.stats import wilcoxon

    each = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    return float(wilcoxon(each, zero_method="zsplit").pvalue) if any(each) else 1.0


def share(count: int, of: int) -> tuple[float, float, float]:
    """Return a share with its exact 95 % interval (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(count, of).proportion_ci(method="exact")
    return count / of, float(interval.low), float(interval.high)


def main(folders: Sequence[str]) -> int:
    """Collect the outcomes of all runs in folders."""
    runs, environments = [], []
    for folder in map(Path, folders):
        for path in sorted(one.parent for one in folder.glob("*/recipe.yaml")):
            run = read_run(path)
            runs.append(outcome(run))
            environments.append(run.environment)
    kept = ("python", "packages", "system", "device", "cores", "threads")
    about: dict[str, Any] = {key: environments[0].get(key) for key in kept} if environments else {}
    about["commit"] = sorted({str(one.get("commit"))[:12] for one in environments})
    found = {
        "benchmark": "small_objects",
        "kind": "experiment",
        "command": "python benchmarks/small_objects/train.py pilot, baseline, main, more, chance; then outcomes.py",
        **about,
        "runs": sorted(runs, key=lambda run: (run["setting"], run["seed"], run["arm"])),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{sum(run['finished'] for run in runs)} of {len(runs)} runs are finished; written to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
