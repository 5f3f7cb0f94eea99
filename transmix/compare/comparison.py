"""The numbers of a comparison: scores over seeds, paired differences, and their significance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transmix.compare.groups import Group, cautions, differing, group_runs
from transmix.compare.label_twin import LABEL_ONLY, NO_TWIN, Shared, shared_draws
from transmix.compare.statistics import LEVEL, Difference, Mean, difference, holm, mean_of
from transmix.metrics import Metric, log_metrics
from transmix.runs.error import RunError
from transmix.runs.read import RunRecord, number
from transmix.runs.weights import ema_is_far_below

NOT_COMPARED = {"loss", "mixed_accuracy", "empty_boxes", "lr"}
"""Metrics of the log that say nothing of which run is better."""


@dataclass(frozen=True)
class Compared:
    """One group of runs compared with another.

    Attributes:
        group: name of the group.
        baseline: name of the group that is subtracted.
        scores: metric -> difference, in the log's units (fractions, nats).
        shared: which random draws both groups have in common; see `Shared`.
        p_holm: p-value of the compared score, Holm-corrected for the number of comparisons; None for one seed.
        verdict: a sentence: is the difference significant?
    """

    group: str
    baseline: str
    scores: dict[str, Difference]
    shared: Shared
    p_holm: float | None
    verdict: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of groups of runs.

    Attributes:
        groups: in the order given.
        baseline: name of the group that others are compared with.
        score: name of the compared score: top-1 of the EMA if all runs have one, else top-1 of the model.
        metrics: name in the log -> metric, for all metrics that a run has.
        means: group -> metric -> mean over the finished seeds.
        compared: each group against the baseline, then pairs of groups that differ only in the label rule.
        cautions: warnings for the reader, one sentence each.
    """

    groups: tuple[Group, ...]
    baseline: str
    score: str
    metrics: dict[str, Metric]
    means: dict[str, dict[str, Mean]]
    compared: tuple[Compared, ...]
    cautions: tuple[str, ...]


def scores_of(run: RunRecord) -> dict[str, float]:
    """Return the numbers of a finished run by their names in the log; empty for an unfinished run.

    Scores are from the last epoch, label shift from the last epoch with mixing; time and speed are those of all
    training steps.
    """
    if not run.finished:
        return {}
    last, seconds = run.epochs[-1], run.training_time[0]
    shifted = [row for row in run.epochs if number(row.get("label_shift")) is not None]
    values = last | ({"label_shift": shifted[-1]["label_shift"]} if shifted else {})
    values |= {
        "seconds": seconds,
        "images_per_second": seconds and last["step"] * run.recipe.optimization.images_per_step / seconds,
    }
    return {
        name: float(values[name])
        for name in log_metrics()
        if name not in NOT_COMPARED and number(values.get(name)) is not None
    }


def compare_runs(runs: Sequence[RunRecord], baseline: str | None = None) -> Comparison:
    """Compare runs.

    Args:
        runs: two or more, on the same data.
        baseline: name of the group that the others are compared with; None: CutMix where there is one, else the first.

    Raises:
        RunError: runs that cannot be compared, no finished run, or an unknown baseline.
    """
    groups = group_runs(runs)
    if not any(group.finished for group in groups):
        raise RunError(
            "none of these runs is finished: nothing to compare yet; continue them with transmix train --resume"
        )
    base = _baseline(groups, baseline)
    finished = [run for group in groups for run in group.finished]
    measured = {id(run): scores_of(run) for run in finished}
    score = "ema_top1" if all("ema_top1" in scores for scores in measured.values()) else "top1"
    in_any = {score, *(name for scores in measured.values() for name in scores)}
    known = {name: metric for name, metric in log_metrics().items() if name in in_any}
    notes = cautions(groups)
    if score == "top1" and "ema_top1" in known:
        notes.append(f"Some runs have no EMA: {known[score].label} of the model is compared.")
    far = [run.folder.name for run in finished if ema_is_far_below(run.epochs[-1])]
    if score == "ema_top1" and far:
        notes.append(f"{known[score].label} is compared, but far below the model in {', '.join(far)}.")
    by_seed, means = {}, {}
    for group in groups:
        scores = {run.seed: measured[id(run)] for run in group.finished}
        of_group = {name: {seed: one[name] for seed, one in scores.items() if name in one} for name in known}
        by_seed[group.name] = of_group
        means[group.name] = {name: mean_of(list(values.values())) for name, values in of_group.items() if values}
    compared = []
    for group, other in _pairs(groups, base):
        one, two = by_seed[group.name], by_seed[other.name]
        scores = {name: found for name in known if (found := difference(one[name], two[name])) is not None}
        if score not in scores:
            notes.append(f"{group.name} and {other.name} have no finished seed in common: no difference between them.")
            continue
        compared.append(Compared(group.name, other.name, scores, shared_draws(group.runs[0], other.runs[0]), None, ""))
    by_rule = {group.name for group in groups if group.runs[0].settings["labels"] != "area"}
    twins = [one for one in compared if one.shared.all and by_rule & {one.group, one.baseline}]
    if by_rule and not twins:
        notes.append(NO_TWIN)
    return Comparison(groups, base.name, score, known, means, _with_verdicts(compared, score), tuple(notes))


def _baseline(groups: Sequence[Group], name: str | None) -> Group:
    if name is None:
        return next((group for group in groups if group.runs[0].title == "cutmix"), groups[0])
    for group in groups:
        if group.name == name:
            return group
    raise RunError(f"no group is called {name!r}; --baseline takes one of: {'; '.join(one.name for one in groups)}")


def _pairs(groups: Sequence[Group], base: Group) -> list[tuple[Group, Group]]:
    """Return pairs: each group with the baseline, and groups that differ only in the label rule."""
    pairs = [(group, base) for group in groups if group is not base]
    for group in groups:
        for other in groups:
            first, second = group.runs[0], other.runs[0]
            if first.settings["labels"] in ("area", second.settings["labels"]):
                continue
            ours = LABEL_ONLY | first.of_labels | second.of_labels
            alone = set(differing([first, second])) <= ours and shared_draws(first, second).all
            if alone and (group, other) not in pairs and (other, group) not in pairs:
                pairs.append((group, other))
    return pairs


def _with_verdicts(compared: Sequence[Compared], score: str) -> tuple[Compared, ...]:
    """Add Holm-corrected p-values and the verdicts."""
    tested = {id(one): p for one in compared if (p := one.scores[score].p) is not None}
    p_holm = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(
        replace(one, p_holm=p_holm.get(id(one)), verdict=_verdict(one.scores[score], p_holm.get(id(one)), len(tested)))
        for one in compared
    )


def _verdict(found: Difference, p_holm: float | None, tests: int) -> str:
    if p_holm is None and len(found.seeds) == 1:
        return "One seed: no interval, so nothing can be said about noise."
    if p_holm is None:
        return "Every seed differs by the same: no spread, so no interval, and nothing can be said about noise."
    if not found.excludes_zero:
        return "Not more than noise: the interval holds 0."
    if p_holm < 1 - LEVEL:
        among = f", also after allowing for {tests} comparisons" if tests > 1 else ""
        return f"More than noise: the interval leaves 0 out{among}."
    return f"Doubtful: the interval leaves 0 out, but among {tests} comparisons one can do so by chance."
