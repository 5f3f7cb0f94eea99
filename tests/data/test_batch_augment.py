"""What is drawn for a batch has the distribution of what is drawn image by image, and follows from the keys alone."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop

from transmix.data import batch_augment
from transmix.data.augment import TrainingAugmentation
from transmix.data.batch_augment import BatchAugmentation, Draws, crop_boxes, erased_boxes, log_uniform
from transmix.data.philox import words
from transmix.data.settings import Augmentation

SIZE = 16
PLAIN = {"crop": "none", "flip": 0.0, "rand_augment": None, "random_erasing": 0.0}
KINDS = {
    "pad": {"crop": "pad", "pad": 3, "flip": 0.5, "random_erasing": 0.5},
    "random-resized": {"crop": "random-resized", "flip": 0.5, "color_jitter": 0.4, "random_erasing": 0.5},
    "none": {"flip": 1.0, "color_jitter": 0.2},
    "rand_augment": {"rand_augment": "rand-m9-n3-mstd0.5-inc1", "flip": 0.5, "random_erasing": 0.5},
}


def settings(**changes):
    return Augmentation(**{**PLAIN, **changes})


def batch_augmentation(source=(SIZE, SIZE), size=SIZE, seed=0, device="cpu", **changes):
    return BatchAugmentation(settings(**changes), source, size, seed, device)


def samples(count, epoch=0, repeat=0):
    return torch.stack([torch.full((count,), epoch), torch.arange(count), torch.full((count,), repeat)], 1)


def noise(count, height=SIZE, width=SIZE):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def same_distribution(ours, theirs, cells=8):
    """Two samples of numbers are cut at the quantiles of both together, and counted."""
    edges = np.unique(np.quantile(np.concatenate([ours, theirs]), np.linspace(0, 1, cells + 1)))
    counts = [np.histogram(part, np.append(edges[:-1], edges[-1] + 1))[0] for part in (ours, theirs)]
    counts = np.array(counts)[:, np.sum(counts, 0) > 0]
    return stats.chi2_contingency(counts).pvalue > 1e-3


# Against the path that goes image by image.


def places():
    """An image whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.uint8)
    return np.stack([rows, columns, np.full_like(rows, 99)], -1)


def moves(images, pad):
    """Read shift and flip off the images (n, 3, S, S) made of `places`: one number for each combination."""
    middle = SIZE // 2
    down = images[:, 0, middle, middle].long() - middle
    flipped = images[:, 1, middle, middle].long() > images[:, 1, middle, middle + 1].long()
    column = torch.where(flipped, images[:, 1, middle, SIZE - 1 - middle], images[:, 1, middle, middle]).long()
    return ((down + pad) * (2 * pad + 1) + column - middle + pad) * 2 + flipped.long()


def test_shifts_and_flips_are_as_often_as_in_the_loader():
    count, pad, change = 3000, 2, {"crop": "pad", "pad": 2, "flip": 0.3}
    one_by_one = TrainingAugmentation(settings(**change), SIZE)
    theirs = moves(torch.stack([one_by_one(places(), key) for key in range(count)]), pad)

    def ours(**other):
        batch = batch_augmentation(**{**change, **other})
        images = torch.from_numpy(places().transpose(2, 0, 1).copy()).expand(count, -1, -1, -1)
        return moves(batch.apply(images, batch.draw(samples(count))), pad)

    def alike(found):
        counts = [torch.bincount(part, minlength=50).numpy() for part in (found, theirs)]
        return stats.chi2_contingency(counts).pvalue > 1e-3

    assert len(set(theirs.tolist())) == 50
    assert alike(ours())
    assert not alike(ours(flip=0.4))
    assert not alike(ours(pad=1))


def erased_by_the_loader(count):
    one_by_one = TrainingAugmentation(settings(random_erasing=1.0, std=(0.05,) * 3), SIZE)
    boxes = []
    for key in range(count):
        changed = one_by_one(np.zeros((SIZE, SIZE, 3), dtype=np.uint8), key).any(0).numpy()
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        boxes.append([rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1])
    return np.array(boxes)


def properties(boxes):
    top, left, rows, columns = np.asarray(boxes, dtype=float).T
    return {
        "area": rows * columns,
        "aspect": np.log(rows / columns),
        "top": (top + rows / 2),
        "left": (left + columns / 2),
        "height": rows,
        "width": columns,
    }


def wrong(boxes, theirs):
    """Name the properties whose distributions differ."""
    ours, theirs = properties(boxes), properties(theirs)
    return {name for name in ours if not same_distribution(ours[name], theirs[name])}


def test_erased_rectangles_have_timms_areas_aspects_and_places(monkeypatch):
    theirs = erased_by_the_loader(1500)
    tried = words(samples(1500), (5, 6), 0, 10)
    ours = erased_boxes(tried, (SIZE, SIZE), batch_augment.log_uniform(*batch_augment.ERASED_ASPECT))
    assert wrong(ours, theirs) == set()
    even = torch.linspace(0.3, 1 / 0.3, 1 << 16, dtype=torch.float64)  # uniform, where its logarithm should be
    assert "aspect" in wrong(erased_boxes(tried, (SIZE, SIZE), even), theirs)
    high = ours * torch.tensor([0, 1, 1, 1])
    assert wrong(high, theirs) == {"top"}
    monkeypatch.setattr(batch_augment, "ERASED_AREA", (0.02, 0.4))
    assert "area" in wrong(
        erased_boxes(tried, (SIZE, SIZE), batch_augment.log_uniform(*batch_augment.ERASED_ASPECT)), theirs
    )


def test_erasing_is_as_often_as_the_setting_says_and_whole():
    boxes = batch_augmentation(random_erasing=0.25).draw(samples(8000)).erased
    assert boxes is not None
    assert abs(float((boxes[:, 2] > 0).double().mean()) - 0.25) < 0.015
    assert ((boxes[:, 2] > 0) == (boxes[:, 3] > 0)).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= SIZE).all()


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 34)])
def test_crops_have_torchvisions_areas_aspects_and_places(height, width):
    scale, ratio = (0.2, 0.9), (0.75, 1.5)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(1500)]
    tried, aspects = words(samples(1500), (5, 6), 0, 10), log_uniform(*ratio)
    assert wrong(crop_boxes(tried, (height, width), scale, ratio, aspects), theirs) == set()
    assert "aspect" in wrong(crop_boxes(tried, (height, width), scale, ratio, 1 / aspects), theirs)
    assert "area" in wrong(crop_boxes(tried, (height, width), (0.1, 0.9), ratio, aspects), theirs)


@pytest.mark.parametrize(("height", "width"), [(8, 40), (40, 8), (20, 20)])
def test_where_no_try_fits_the_crop_is_torchvisions_central_one(height, width):
    scale, ratio = (3.0, 4.0), (0.75, 1.25)
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), list(scale), list(ratio))
    found = crop_boxes(words(samples(3), (5, 6), 0, 10), (height, width), scale, ratio, log_uniform(*ratio))
    assert found.tolist() == [list(expected)] * 3


def test_colours_are_jittered_as_often_and_as_much_as_by_torchvision():
    strength, count = 0.7, 3000
    torch.manual_seed(0)
    span = [1 - strength, 1 + strength]
    theirs = [ColorJitter.get_params(span, span, span, None) for _ in range(count)]
    draws = batch_augmentation(color_jitter=strength).draw(samples(count))
    assert draws.order is not None
    assert draws.factors is not None
    for kind in range(3):
        expected = np.array([one[1 + kind] for one in theirs])
        assert same_distribution(draws.factors[:, kind].numpy(), expected)
        assert not same_distribution(draws.factors[:, kind].numpy() ** 1.3, expected)
    orders = [[int(kind) for kind in one[0] if kind < 3] for one in theirs]
    names = [np.array(part) @ [9, 3, 1] for part in (draws.order.tolist(), orders)]
    assert same_distribution(*names)
    assert len(set(names[0])) == 6


def test_colours_are_jittered_only_where_there_is_no_rand_augment():
    assert batch_augmentation(color_jitter=0.4, rand_augment="rand-m9").draw(samples(2)).order is None
    assert batch_augmentation(color_jitter=0.4).draw(samples(2)).operations is None


def test_a_strength_above_1_draws_no_factor_below_0():
    factors = batch_augmentation(color_jitter=1.5).draw(samples(2000)).factors
    assert factors is not None
    assert float(factors.min()) >= 0
    assert 2.45 < float(factors.max()) <= 2.5


# Keys.


@pytest.mark.parametrize("kind", KINDS)
def test_a_samples_pixels_do_not_depend_on_its_batch(kind):
    augment = batch_augmentation((20, 14) if kind == "random-resized" else (SIZE, SIZE), **KINDS[kind])
    images, keys = noise(24, *augment.source), samples(24, epoch=3)
    before = images.clone()
    together = augment.apply(images, augment.draw(keys))
    assert together.shape == (24, 3, SIZE, SIZE)
    assert together.dtype == torch.uint8
    for rows in (slice(0, 1), slice(5, 12), slice(23, 24)):
        assert augment.apply(images[rows], augment.draw(keys[rows])).equal(together[rows])
        assert augment.apply(images[rows], augment.draw(keys)[rows]).equal(together[rows])
    together.fill_(0)
    assert images.equal(before)


def test_draws_by_place_in_the_batch_would_be_noticed():
    augment = batch_augmentation(**KINDS["pad"])
    images, keys = noise(24), samples(24)
    numbered = keys.clone()
    numbered[5:12, 1] -= 5
    assert not augment.apply(images[5:12], augment.draw(numbered[5:12])).equal(
        augment.apply(images, augment.draw(keys))[5:12]
    )


@pytest.mark.parametrize("kind", ["pad", "random-resized", "rand_augment"])
def test_seed_epoch_and_repeat_each_give_other_pixels(kind):
    images = noise(1).expand(16, -1, -1, -1)

    def pixels(seed=0, **key):
        augment = batch_augmentation(seed=seed, **KINDS[kind])
        return augment.apply(images, augment.draw(samples(16, **key)))

    outcomes = [pixels(), pixels(seed=1), pixels(epoch=1), pixels(repeat=1)]
    assert pixels().equal(outcomes[0])
    assert all(not one.equal(other) for n, one in enumerate(outcomes) for other in outcomes[:n])


def test_nothing_asked_is_nothing_done():
    augment = batch_augmentation()
    draws = augment.draw(samples(5))
    assert [
        field.name for field in fields(draws) if field.name != "samples" and getattr(draws, field.name) is not None
    ] == []
    assert augment.apply(noise(5), draws).equal(noise(5))


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    for kind in KINDS.values():
        augment = batch_augmentation(**kind)
        augment.apply(noise(4), augment.draw(samples(4)))
    assert torch.get_rng_state().equal(before)


# The device.


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_back_from_the_device(kind):
    # What holds no values cannot be read: on 'meta' any look at one raises.
    augment = batch_augmentation(device="meta", **KINDS[kind])
    out = augment.apply(noise(6).to("meta"), augment.draw(samples(6).to("meta")))
    assert out.shape == (6, 3, SIZE, SIZE)
    assert out.dtype == torch.uint8


def test_a_look_at_values_would_be_noticed():
    with pytest.raises((NotImplementedError, RuntimeError)):
        bool(batch_augmentation(device="meta", **KINDS["pad"]).draw(samples(6).to("meta")).erased.any())


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_without_a_break_the_pixels_are_the_same(kind):
    augment = batch_augmentation(**KINDS[kind])  # traced as on a GPU: noise for every row, which a CPU is spared
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda images, keys: augment.apply(images, augment.draw(keys)), fullgraph=True, backend="eager"
    )
    assert compiled(noise(9), samples(9)).equal(augment.apply(noise(9), augment.draw(samples(9))))


def test_rows_of_draws_are_draws():
    draws = batch_augmentation(**KINDS["pad"]).draw(samples(6))
    some = draws[2:4]
    assert isinstance(some, Draws)
    assert some.samples.equal(draws.samples[2:4])
    assert some.shift is not None
    assert some.shift.equal(draws.shift[2:4])
    assert some.crop is None
