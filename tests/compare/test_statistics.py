"""Means, paired intervals and Holm's p, against scipy's tests, explicit formulas, and what they promise."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transmix.compare.statistics import Difference, difference, holm, mean_of

score = st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 4))
pairs = st.lists(st.tuples(score, score), min_size=2, max_size=8)


def by_seed(values):
    return dict(enumerate(values))


def compare(values):
    ours, theirs = zip(*values, strict=True)
    found = difference(by_seed(ours), by_seed(theirs))
    assert found is not None
    assume(found.sd is not None and found.sd > 1e-6)
    return found


@given(st.lists(score, min_size=2, max_size=9))
@settings(deadline=None, max_examples=50)
def test_mean_and_deviation_are_numpys(values):
    found = mean_of(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_one_value_has_no_deviation():
    assert mean_of([0.5]).sd is None


@given(pairs)
@settings(deadline=None, max_examples=60)
def test_interval_and_p_are_those_of_scipys_paired_test(values):
    from scipy import stats

    found = compare(values)
    ours, theirs = zip(*values, strict=True)
    tested = stats.ttest_rel(ours, theirs)
    interval = tested.confidence_interval(0.95)
    assert found.p == pytest.approx(tested.pvalue, rel=1e-7)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-7)


@pytest.mark.parametrize(("n", "point"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622)])
def test_the_interval_reaches_as_far_as_printed_tables_of_t_say(n, point):
    each = np.random.default_rng(n).normal(0, 1, n)
    found = difference(by_seed(each), by_seed(np.zeros(n)))
    half = point * np.std(each, ddof=1) / math.sqrt(n)
    assert found.high - found.mean == pytest.approx(half, rel=1e-4)
    assert found.mean - found.low == pytest.approx(half, rel=1e-4)


@given(pairs, st.floats(-0.5, 0.5))
@settings(deadline=None, max_examples=40)
def test_shifting_a_group_shifts_mean_and_interval_and_nothing_else(values, shift):
    found = compare(values)
    moved = compare([(ours + shift, theirs) for ours, theirs in values])
    assert moved.mean == pytest.approx(found.mean + shift, abs=1e-9)
    assert moved.sd == pytest.approx(found.sd, abs=1e-9)
    assert (moved.low, moved.high) == pytest.approx((found.low + shift, found.high + shift), abs=1e-7)
    both = compare([(ours + shift, theirs + shift) for ours, theirs in values])
    assert (both.mean, both.low, both.high) == pytest.approx((found.mean, found.low, found.high), abs=1e-7)


@given(pairs)
@settings(deadline=None, max_examples=40)
def test_swapping_the_groups_flips_every_sign_and_keeps_p(values):
    found, swapped = compare(values), compare([(theirs, ours) for ours, theirs in values])
    assert swapped.each == tuple(-one for one in found.each)
    assert (swapped.mean, swapped.low, swapped.high) == (-found.mean, -found.high, -found.low)
    assert (swapped.p, swapped.excludes_zero) == (found.p, found.excludes_zero)


@given(pairs)
@settings(deadline=None, max_examples=40)
def test_the_interval_leaves_0_out_exactly_where_p_is_under_5_percent(values):
    found = compare(values)
    assume(abs(found.p - 0.05) > 1e-9)
    assert found.excludes_zero == (found.p < 0.05)


def coverage(widen=1.0, experiments=3000, n=3, truth=0.4):
    """How often the interval holds the true difference; each pair shares a large part, as runs of a seed do."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(experiments):
        common, noise = rng.normal(0, 3, n), rng.normal(0, 1, (2, n))
        found = difference(by_seed(common + noise[0] + truth), by_seed(common + noise[1]))
        half = widen * (found.high - found.low) / 2
        held += found.mean - half <= truth <= found.mean + half
    return held / experiments


def test_95_of_100_intervals_hold_the_true_difference():
    assert coverage() == pytest.approx(0.95, abs=0.012)  # three standard errors of 3000 draws


def test_an_interval_by_the_normal_distribution_would_not():
    """Negative control: with 1.96 standard errors for three seeds, one in five intervals misses."""
    assert coverage(widen=1.96 / 4.3027) < 0.85


def test_only_seeds_that_both_have_are_compared():
    found = difference({0: 0.5, 1: 0.6, 7: 0.9}, {1: 0.5, 0: 0.5, 3: 0.1})
    assert found.seeds == (0, 1)
    assert found.each == pytest.approx((0.0, 0.1))
    assert difference({0: 0.5}, {1: 0.5}) is None


def test_one_seed_gives_a_difference_without_an_interval():
    assert difference({0: 0.75}, {0: 0.5}) == Difference((0,), (0.25,), 0.25)
    assert not difference({0: 0.75}, {0: 0.5}).excludes_zero


@pytest.mark.parametrize("gap", [0.0, 0.003])
def test_equal_differences_give_no_interval_of_no_width(gap):
    base = {seed: 0.9 + seed / 1077 for seed in range(3)}
    found = difference({seed: value + gap for seed, value in base.items()}, base)
    assert (found.low, found.high, found.p) == (None, None, None)
    assert not found.excludes_zero


def holm_by_the_book(p_values):
    """Step down as in the paper: reject while p(k) <= level / (m - k + 1); the p is the level that just rejects it."""
    ranked = sorted(p_values)
    return [
        min(1.0, max((len(ranked) - k) * ranked[k] for k in range(ranked.index(p) + ranked.count(p)) if ranked[k] <= p))
        for p in p_values
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
@settings(deadline=None, max_examples=100)
def test_holms_p_is_the_level_at_which_stepping_down_rejects(p_values):
    raised = holm(p_values)
    assert raised == pytest.approx(holm_by_the_book(p_values))
    assert all(before <= after <= 1 for before, after in zip(p_values, raised, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(raised)[order]) >= 0)


def test_holm_of_an_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
