"""The experiment on small objects: what is trained, and the statistics that its page states."""

import itertools
import json
import random
from dataclasses import fields

import pytest
from scipy import stats

from transmix.compare.label_twin import shared_draws
from transmix.compare.statistics import Difference
from transmix.recipes import check_recipe, resolved
from transmix.runs.read import RunRecord


@pytest.fixture(scope="module")
def modules(script):
    with pytest.MonkeyPatch.context() as patch:
        folder = script("timing").__file__.rpartition("/")[0]
        patch.syspath_prepend(f"{folder}/small_objects")
        return {name: script(name) for name in ("arms", "outcomes", "page")}


def made(arms, seeds, score, setting="stable"):
    """Runs as `outcome` returns them; score: (arm, seed) -> top-1."""
    return [
        {
            "setting": setting,
            "arm": arm,
            "seed": seed,
            "finished": True,
            "top1": score(arm, seed),
            "nll": 1 - score(arm, seed),
            "steps_to_half": 100 * seed,
            "last_step": 1800,
            "left_chance": score(arm, seed) > 0.2,
        }
        for arm in arms
        for seed in seeds
    ]


def noise(arm, seed, spread=0.02):
    return 0.8 + random.Random(f"{arm} {seed}").gauss(0, spread)


def test_arms_differ_in_the_label_alone(modules):
    arms = modules["arms"]
    for name, stage in arms.STAGES.items():
        runs = arms.planned(stage)
        assert len(runs) == len(stage.arms) * len(stage.settings) * len(stage.seeds)
        for recipe in runs.values():
            check_recipe(recipe)
        for setting, seed in itertools.product(stage.settings, stage.seeds[:1]):
            first, *others = (resolved(runs[f"{setting}-{arm}-seed{seed}"]) for arm in stage.arms)
            for other in others:
                changed = {
                    field.name
                    for part in ("data", "augmentation", "model", "mixing", "optimization", "run")
                    for field in fields(getattr(first, part))
                    if getattr(getattr(first, part), field.name) != getattr(getattr(other, part), field.name)
                }
                assert changed <= {"labels", "labels_options", "guide"}, (name, changed)


def test_no_seed_that_found_the_setting_is_used_again(modules):
    stages = modules["arms"].STAGES
    searched = {*stages["pilot"].seeds, *stages["baseline"].seeds}
    assert not searched & {seed for name in ("main", "more", "chance") for seed in stages[name].seeds}
    assert not set(stages["pilot"].seeds) & set(stages["baseline"].seeds)


def test_arms_draw_the_same_boxes(modules, tmp_path):
    arms = modules["arms"]
    runs = arms.planned(arms.Stage(("area", "oracle"), ("stable",), (3,)))
    records = []
    for name, recipe in runs.items():
        record = RunRecord(tmp_path / name)
        record.__dict__["recipe"] = recipe
        records.append(record)
    assert shared_draws(*records).all


def test_a_difference_is_that_of_scipy_and_p_rises_as_holm_says(modules):
    runs = made(("area", "transmix", "oracle", "control"), range(16), noise)
    found = modules["outcomes"].compared(runs, "main")
    assert len(found) == 6
    plain = []
    for (arm, baseline, name), (one, _) in found.items():
        values = [[run[name] for run in runs if run["arm"] == of] for of in (arm, baseline)]
        expected = stats.ttest_rel(*values)
        interval = expected.confidence_interval()
        assert (one.mean, one.p, one.low, one.high) == pytest.approx(
            (sum(values[0]) / 16 - sum(values[1]) / 16, expected.pvalue, interval.low, interval.high)
        )
        plain.append(expected.pvalue)
    raised, least = {}, 0.0
    for rank, p in enumerate(sorted(plain)):
        raised[p] = least = max(least, min(1, (6 - rank) * p))
    assert [p for _, p in found.values()] == pytest.approx([raised[p] for p in plain])


def test_the_rules_written_before(modules):
    outcomes, page = modules["outcomes"], modules["page"]
    arms, seeds = ("area", "transmix", "oracle", "control"), range(16)
    gains = {"oracle": 0.05, "transmix": -0.05}
    better = made(arms, seeds, lambda arm, seed: noise("", seed) + gains.get(arm, 0) + 0.1 * (noise(arm, seed) - 0.8))
    found = outcomes.compared(better, "main")
    assert [outcomes.wins(found, arm) for arm in ("oracle", "transmix")] == [True, False]
    assert not outcomes.stops(found)
    shown = page.stage(better, "main")
    assert "oracle beats area; the stop rule does not hold" in shown
    every = shown.partition("<summary>Every run</summary>")[2]
    assert [line.split(" ")[1] for line in every.splitlines() if line.startswith("| ")] == [
        "seed", "---", *map(str, range(16))
    ]  # fmt: skip

    alike = made(arms, seeds, lambda arm, seed: noise("", seed) + 0.01 * (noise(arm, seed) - 0.8))
    found = outcomes.compared(alike, "main")
    assert not any(outcomes.wins(found, arm) for arm in ("oracle", "transmix"))
    assert outcomes.stops(found)
    assert "none beats area; the stop rule holds, and stage 2 is not run" in page.stage(alike, "main")
    assert "No verdict yet" in page.stage([run for run in alike if run["seed"] < 9], "main")


def test_better_in_one_outcome_and_worse_in_the_other_does_not_win(modules):
    def of(mean, p):
        return Difference((0, 1), (mean, mean), mean, 0.1, mean - 1, mean + 1, p), p

    wins = modules["outcomes"].wins
    assert wins({("a", "area", "top1"): of(1, 0.01), ("a", "area", "nll"): of(1, 0.2)}, "a")
    assert not wins({("a", "area", "top1"): of(1, 0.01), ("a", "area", "nll"): of(1, 0.04)}, "a")
    assert not wins({("a", "area", "top1"): of(-1, 0.01), ("a", "area", "nll"): of(0.1, 0.5)}, "a")
    assert not wins({("a", "area", "top1"): of(1, 0.06), ("a", "area", "nll"): of(-1, 0.06)}, "a")


def test_steps_and_shares(modules):
    outcomes = modules["outcomes"]
    assert outcomes.steps_to(0.5, [0.1, 0.5, 0.6], [10, 20, 30]) == 20
    assert outcomes.steps_to(0.5, [0.1, 0.2, 0.3], [10, 20, 30]) == 31
    assert outcomes.share(0, 16) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 16)))
    of, low, high = outcomes.share(5, 16)
    assert (of, low, high) == pytest.approx((5 / 16, stats.beta.ppf(0.025, 5, 12), stats.beta.ppf(0.975, 6, 11)))


def test_the_signed_rank_test_is_that_of_all_signs(modules):
    one, other = (dict(enumerate(values)) for values in ((9, 4, 8, 7, 1, 12), (1, 2, 3, 1, 2, 2)))
    each = [one[seed] - other[seed] for seed in one]
    ranks = stats.rankdata([abs(value) for value in each])
    sums = [
        sum(rank * sign for rank, sign in zip(ranks, signs, strict=True))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    ours = sum(rank * (1 if value > 0 else -1) for rank, value in zip(ranks, each, strict=True))
    expected = sum(abs(value) >= abs(ours) for value in sums) / len(sums)
    assert modules["outcomes"].signed_rank(one, other) == pytest.approx(expected)
    assert modules["outcomes"].signed_rank(one, one) == 1


def test_the_page_is_what_the_results_say(modules, capsys):
    page = modules["page"]
    assert page.main(["--check"]) == 0, capsys.readouterr().out
    found = json.loads(modules["outcomes"].RESULTS.read_text())
    assert {run["setting"] for run in found["runs"]} <= modules["arms"].SETTINGS.keys()
