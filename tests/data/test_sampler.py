"""The order of samples follows from (seed, epoch) alone, and processes share it out step by step."""

import random
from collections import defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transmix.data.sampler import EpochSampler


@dataclass(frozen=True)
class Shape:
    samples: int = 23
    batch: int = 2
    accumulate: int = 2
    world: int = 2
    repeats: int = 1
    seed: int = 5

    @property
    def step_batch(self):
        return self.batch * self.accumulate * self.world

    @property
    def steps(self):
        return self.samples // self.step_batch

    def order(self, kind=EpochSampler, rank=0):
        return kind(self.samples, self.seed, self.batch, self.step_batch, self.repeats, rank, self.world)

    def alone(self):
        """One process that takes each step in one micro-batch."""
        return EpochSampler(self.samples, self.seed, self.step_batch, self.step_batch, self.repeats)


ONE = st.just(1)
FEW = st.integers(1, 4)


@st.composite
def shapes(draw, repeats=ONE, world=FEW):
    batch, accumulate, world = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(world)
    step = batch * accumulate * world
    samples = step * draw(st.integers(1, 4)) + draw(st.integers(0, step - 1))
    return Shape(samples, batch, accumulate, world, draw(repeats), draw(st.integers(0, 3)))


def at(order, epoch, first_step=0):
    order.start_at(epoch, first_step)
    return list(order)


def flat(batches):
    return [sample for batch in batches for sample in batch]


def indices(batches):
    return [index for _, index, _ in flat(batches)]


# Orders that break one promise each.


class IgnoresTheEpoch(EpochSampler):
    def start_at(self, epoch, first_step=0):
        super().start_at(0, first_step)


class IgnoresTheSeed(EpochSampler):
    def __init__(self, samples, seed, *rest):
        super().__init__(samples, 0, *rest)


class DrawsFromTheGlobalGenerator(EpochSampler):
    def __iter__(self):
        for batch in super().__iter__():
            yield random.sample(batch, len(batch))


class BeginsTheEpochAgain(EpochSampler):
    def start_at(self, epoch, first_step=0):
        super().start_at(epoch, 0)


class SkipsMicroBatchesForSteps(EpochSampler):
    def start_at(self, epoch, first_step=0):
        super().start_at(epoch, 0)
        self.skipped = first_step

    def __iter__(self):
        yield from list(super().__iter__())[self.skipped :]


class GivesEveryRankTheSame(EpochSampler):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.rank = 0


class SharesTheEpochInBlocks(EpochSampler):
    """Disjoint over the epoch, but the processes' shares of a step are not the step of one process."""

    def __iter__(self):
        everything = flat(at(EpochSampler(self.samples, self.seed, 1, self.step_batch, self.repeats), self.epoch))
        share = len(everything) // self.world
        mine = everything[self.rank * share : (self.rank + 1) * share]
        yield from (mine[start : start + self.batch] for start in range(0, share, self.batch))


# Laws.


def follows_from_seed_and_epoch(kind, shape):
    order = shape.order(kind)
    expected = at(order, 3)
    assert expected == at(order, 3)
    at(order, 0)
    assert expected == at(order, 3)
    assert expected == at(shape.order(kind), 3)


def changes_with_the_epoch(kind):
    order = Shape(samples=60).order(kind)
    assert indices(at(order, 0)) != indices(at(order, 1))


def changes_with_the_seed(kind):
    orders = [Shape(samples=60, seed=seed).order(kind) for seed in (1, 2)]
    assert indices(at(orders[0], 0)) != indices(at(orders[1], 0))


def starts_anywhere(kind, shape, step):
    order = shape.order(kind)
    whole = at(order, 2)
    tail = at(order, 2, step)
    assert tail == whole[step * shape.accumulate :]
    assert len(order) == len(tail)


def shares_each_step(kind, shape):
    ranks = [at(shape.order(kind, rank), 1) for rank in range(shape.world)]
    steps = at(shape.alone(), 1)
    assert all(len(batches) == shape.steps * shape.accumulate for batches in ranks)
    for number, step in enumerate(steps):
        micro = slice(number * shape.accumulate, (number + 1) * shape.accumulate)
        together = [sample for batches in ranks for sample in flat(batches[micro])]
        assert sorted(together) == sorted(step)  # counts too: a sample given twice would be one too many


def spreads_repeats(kind, shape):
    for rank in range(shape.world):
        mine = indices(at(shape.order(kind, rank), 0))
        assert len(set(mine)) == len(mine)


@settings(max_examples=40, deadline=None)
@given(shapes(repeats=st.integers(1, 4)))
def test_the_order_is_a_pure_function_of_seed_and_epoch(shape):
    state = random.getstate()
    follows_from_seed_and_epoch(EpochSampler, shape)
    assert random.getstate() == state


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    changes_with_the_epoch(EpochSampler)
    changes_with_the_seed(EpochSampler)


@settings(max_examples=40, deadline=None)
@given(shapes())
def test_a_sample_comes_at_most_once_an_epoch(shape):
    epoch = at(shape.alone(), 4)
    assert all(number == 4 and repeat == 0 for number, _, repeat in flat(epoch))
    assert len(indices(epoch)) == shape.steps * shape.step_batch
    assert len(set(indices(epoch))) == len(indices(epoch))
    assert set(indices(epoch)) <= set(range(shape.samples))


def test_no_sample_is_left_out_for_ever():
    order = Shape(samples=15).order()
    rank_two = Shape(samples=15).order(rank=1)
    seen = {index for epoch in range(30) for each in (order, rank_two) for index in indices(at(each, epoch))}
    assert seen == set(range(15))


@settings(max_examples=60, deadline=None)
@given(shapes(repeats=st.integers(1, 4)), st.data())
def test_starting_at_a_step_gives_exactly_the_rest_of_the_epoch(shape, data):
    starts_anywhere(EpochSampler, shape, data.draw(st.integers(0, shape.steps)))


@settings(max_examples=60, deadline=None)
@given(shapes(repeats=st.integers(1, 4)))
def test_the_processes_of_a_step_together_do_the_step_of_one_process(shape):
    shares_each_step(EpochSampler, shape)


@settings(max_examples=60, deadline=None)
@given(shapes(repeats=st.integers(1, 4)))
def test_batches_are_full_and_their_number_is_known(shape):
    for rank in range(shape.world):
        order = shape.order(rank=rank)
        batches = at(order, 0)
        assert len(order) == len(batches) == shape.steps * shape.accumulate
        assert {len(batch) for batch in batches} == {shape.batch}


@settings(max_examples=60, deadline=None)
@given(shapes(repeats=st.integers(2, 4)))
def test_each_sample_kept_is_repeated_with_numbers_of_its_own(shape):
    numbers = defaultdict(list)
    for _, index, repeat in flat(at(shape.alone(), 0)):
        numbers[index].append(repeat)
    kept = shape.steps * shape.step_batch
    *whole, last = (sorted(repeats) for repeats in numbers.values())
    assert all(repeats == list(range(shape.repeats)) for repeats in whole)
    assert last == list(range(kept - len(whole) * shape.repeats))  # the end of the last step may cut its repeats


@settings(max_examples=40, deadline=None)
@given(shapes(repeats=st.integers(2, 3), world=st.integers(3, 5)))
def test_repeats_of_a_sample_land_in_different_processes(shape):
    spreads_repeats(EpochSampler, shape)


def test_repeats_of_a_sample_meet_in_a_process_that_is_alone():
    with pytest.raises(AssertionError):
        spreads_repeats(EpochSampler, Shape(samples=24, world=1, repeats=2))


@pytest.mark.parametrize(
    ("law", "kind", "arguments"),
    [
        (follows_from_seed_and_epoch, DrawsFromTheGlobalGenerator, [Shape(samples=64, batch=8)]),
        (changes_with_the_epoch, IgnoresTheEpoch, []),
        (changes_with_the_seed, IgnoresTheSeed, []),
        (starts_anywhere, BeginsTheEpochAgain, [Shape(), 1]),
        (starts_anywhere, SkipsMicroBatchesForSteps, [Shape(), 1]),
        (shares_each_step, GivesEveryRankTheSame, [Shape()]),
        (shares_each_step, SharesTheEpochInBlocks, [Shape()]),
        (spreads_repeats, SharesTheEpochInBlocks, [Shape(samples=24, repeats=2)]),
    ],
)
def test_each_law_rejects_an_order_that_breaks_it(law, kind, arguments):
    law(EpochSampler, *arguments)
    with pytest.raises(AssertionError):
        law(kind, *arguments)


def test_fewer_samples_than_a_step_needs_is_an_error():
    with pytest.raises(ValueError, match=r"^7 training images do not fill one batch of 8: --batch-size 7 or less$"):
        Shape(samples=7).order()
    assert len(Shape(samples=8).order()) == 2
