"""Uneven classes: drawn equally often, or weighed as scikit-learn weighs them; nothing is drawn the same way twice."""

from collections import Counter

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from transmix.data.balance import check_balance, class_weights
from transmix.data.dataset import DataError
from transmix.data.sampler import EpochSampler

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [2, 5, 31, 60]))
SHAPES = pytest.mark.parametrize(("batch", "accumulate", "world"), [(1, 1, 1), (4, 1, 1), (3, 2, 2), (7, 1, 3)])


def order(batch, accumulate=1, world=1, rank=0, repeats=1, labels=LABELS, seed=5):
    return EpochSampler(len(LABELS), seed, batch, batch * accumulate * world, repeats, rank, world, labels)


def at(sampler, epoch, first_step=0):
    sampler.start_at(epoch, first_step)
    return [key for batch in sampler for key in batch]


def per_class(keys):
    return sorted(Counter(LABELS[index] for _, index, _ in keys).values())


@SHAPES
@pytest.mark.parametrize("repeats", [1, 3])
def test_each_class_is_drawn_equally_often_in_an_epoch_as_long_as_before(batch, accumulate, world, repeats):
    ranks = [at(order(batch, accumulate, world, rank, repeats), 2) for rank in range(world)]
    keys = [key for rank in ranks for key in rank]
    plain = at(order(batch, accumulate, world, repeats=repeats, labels=None), 2)
    assert [len(rank) for rank in ranks] == [len(plain)] * world
    counts = per_class(keys)
    assert len(counts) == 4
    assert counts[-1] - counts[0] < 2 * repeats  # one image more, and the cut at the end of the last step
    assert per_class(plain)[-1] - per_class(plain)[0] >= 2 * repeats  # the negative control
    assert len(set(keys)) == len(keys)  # an image that comes again is augmented otherwise


def test_all_images_of_a_class_come_before_one_comes_again():
    times = Counter(index for _, index, _ in at(order(1), 0))
    for members in order(1).members:
        drawn = [times[index] for index in members]
        assert max(drawn) - min(drawn) <= 1


def test_processes_share_out_each_step_of_one_process_and_an_epoch_goes_on_where_it_stopped():
    ranks = [at(order(3, 2, 2, rank), 1) for rank in range(2)]
    assert [key for pair in zip(*ranks, strict=True) for key in pair] == at(order(12), 1)
    assert at(order(12), 1, first_step=3) == at(order(12), 1)[36:]


def test_the_draw_follows_from_seed_and_epoch():
    assert at(order(4), 3) == at(order(4), 3)
    assert at(order(4), 3) != at(order(4), 4)
    assert at(order(4), 3) != at(order(4, seed=6), 3)
    large = [{index for _, index, _ in at(order(4), epoch) if LABELS[index] == 3} for epoch in range(40)]
    assert set.union(*large) == set(np.flatnonzero(LABELS == 3))  # what an epoch leaves out comes in others


def test_weights_are_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(4), y=LABELS)
    assert np.allclose(class_weights(LABELS, 4), expected)
    assert class_weights(LABELS, 4)[LABELS].mean() == pytest.approx(1)


def test_what_balancing_cannot_change_or_do_is_refused(says):
    with says(
        DataError,
        "balance loss would change nothing: each of the 2 classes has 3 training images; leave --balance out",
    ):
        check_balance("loss", np.array([0, 1, 1, 0, 0, 1]), ["cat", "dog"])
    with says(DataError, "balance sampler: class dog has no training image"):
        check_balance("sampler", np.array([0, 0]), ["cat", "dog"])
    check_balance("sampler", np.array([0, 1, 1]), ["cat", "dog"])
