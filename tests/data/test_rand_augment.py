"""RandAugment of a batch is timm's: the same operations, as often, as strong, and with the same pixels."""

import random
from functools import cache, partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats

from transmix.data import batch_augment
from transmix.data.augment import TrainingAugmentation
from transmix.data.batch_augment import BatchAugmentation
from transmix.data.batch_operations import moved, moved_alone, operated, smooth
from transmix.data.rand_augment import (
    COLOUR,
    KEPT,
    MOVE,
    NEGATED,
    NOTHING,
    UNIT,
    batch_policy,
    timm_policy,
)
from transmix.data.rand_augment import _integers as integers
from transmix.data.seeding import global_generators
from transmix.data.settings import Augmentation
from transmix.error import RecipeError

SIZE = 24
OFF = {"crop": "none", "flip": 0.0, "random_erasing": 0.0}
FILL = torch.tensor([124, 116, 104], dtype=torch.uint8)


def settings(policy="rand-m9-mstd0.5-inc1"):
    return Augmentation(rand_augment=policy, **OFF)


def planes(*images):
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


def pictures(height=SIZE, width=SIZE):
    """Noise, a slope, darkness with few values, one colour, and two colours."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    slope = np.stack([rows * 5 % 256, columns * 9 % 256, (rows + columns) * 2 % 256], -1)
    two = np.where((rows > 5)[..., None], [200, 10, 77], [20, 250, 76])
    pixels = [rng.integers(0, 256, slope.shape), slope, rng.integers(3, 40, slope.shape), np.full_like(slope, 90), two]
    return [one.astype(np.uint8) for one in pixels]


def by_timm(operation, image, sign, magnitude):
    with global_generators(sign):
        levels = () if operation.level_fn is None else operation.level_fn(magnitude, operation.hparams)
    return np.asarray(operation.aug_fn(Image.fromarray(image), *levels, **operation.kwargs))


# Pixels.


@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("name", [one.name for one in timm_policy(Augmentation(rand_augment="rand-m9"), 8).ops])
def test_every_operation_gives_timms_pixels_at_every_magnitude(name, increasing):
    images, exact = pictures(), name.startswith(("Invert", "Posterize", "Solarize", "Equalize"))
    differences = []
    for magnitude in (0, 2, 3, 5, 7, 9) if increasing else (1, 4, 6, 8, 10):
        chosen = settings(f"rand-m{magnitude}-inc{increasing}")
        policy, batch = timm_policy(chosen, SIZE), batch_policy(chosen, SIZE, "cpu")
        [place] = [n for n, one in enumerate(policy.ops) if one.name.removesuffix("Increasing") == name]
        operation = batch.operations[place].expand(len(images), 1)
        if name == "Posterize" and magnitude == 10 * increasing:
            continue  # none of the bits are left, which this Pillow refuses
        for sign in (NEGATED, KEPT):
            arguments = batch.arguments[place, sign, :1].expand(len(images), 1, 6)
            ours = operated(planes(*images), operation, arguments, FILL)
            theirs = planes(*(by_timm(policy.ops[place], one, sign, magnitude) for one in images))
            differences.append((ours.int() - theirs.int()).abs())
    differ = torch.stack(differences)
    on_the_border = float((differ > 1).double().mean())  # a place that is exactly 0 is in or out
    assert on_the_border <= (3e-4 if name.startswith(("Rotate", "Shear", "Translate")) else 0)
    assert float(differ.double().mean()) < (1e-9 if exact else 0.1)


def test_the_sign_and_the_magnitude_of_another_would_be_noticed():
    policy, batch = timm_policy(settings("rand-m9-inc1"), SIZE), batch_policy(settings("rand-m8-inc1"), SIZE, "cpu")
    [image, *_] = pictures()
    same = 0
    for place, operation in enumerate(policy.ops):
        if operation.level_fn is None:
            continue
        for sign, wrong in ((KEPT, batch.arguments[place, KEPT]), (NEGATED, batch.arguments[place, KEPT])):
            ours = operated(planes(image), batch.operations[place].view(1, 1), wrong[None, :1], FILL)
            same += ours.equal(planes(by_timm(operation, image, sign, 9)))
    assert same <= 3  # magnitudes 8 and 9 leave as many bits, and thresholds have no sign


MAPS = [
    (1, 0.27, 0, 0, 1, 0),
    (1, 0, 0, -0.3, 1, 0),
    (1, 0, 17.3, 0, 1, 0),
    (1, 0, 0, 0, 1, -9.6),
    (0.9, 0.21, -3.1, 0.1, 1.1, 2.03),
]


@pytest.mark.parametrize(("height", "width"), [(40, 56), (31, 9), (1, 7), (3, 2)])
def test_moved_pixels_are_pillows_to_one_level_on_oblong_images(height, width):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (len(MAPS), height, width, 3), dtype=np.uint8)
    theirs = planes(*(transformed(one, matrix) for one, matrix in zip(images, MAPS, strict=True)))
    matrices = torch.tensor([[round(UNIT * value) for value in matrix] for matrix in MAPS])
    differ = (moved(planes(*images), matrices, FILL).int() - theirs.int()).abs()
    assert int(differ.max()) <= 1
    assert float(differ.double().mean()) < 0.06
    wrong = moved(planes(*images), matrices[:, [3, 4, 5, 0, 1, 2]], FILL)
    assert float((wrong.int() - theirs.int()).abs().double().mean()) > 5


def transformed(image, matrix):
    size, how = image.shape[1::-1], {"resample": Image.Resampling.BICUBIC, "fillcolor": tuple(FILL.tolist())}
    return np.asarray(Image.fromarray(image).transform(size, Image.Transform.AFFINE, matrix, **how))


@pytest.mark.parametrize(("height", "width"), [(9, 14), (3, 3), (2, 8), (5, 1)])
def test_smoothing_is_pillows(height, width):
    images = pictures(height, width)
    theirs = planes(*(np.asarray(Image.fromarray(one).filter(ImageFilter.SMOOTH)) for one in images))
    assert smooth(planes(*images)).equal(theirs.float())


def test_no_bits_left_is_black_as_on_the_cpu():
    chosen = settings("rand-m10-inc1")
    batch, names = batch_policy(chosen, SIZE, "cpu"), [one.name for one in timm_policy(chosen, SIZE).ops]
    place = names.index("PosterizeIncreasing")
    out = operated(
        planes(*pictures()), batch.operations[place].expand(5, 1), batch.arguments[place, :1, :1].expand(5, 1, 6), FILL
    )
    assert not out.any()


# Draws.


@cache
def drawn_by_timm(policy, count):
    """Return (operation, its six integers) of every layer of `count` images; zeros where none was applied."""
    rows, codes = [], batch_policy(settings(), SIZE, "cpu").operations.tolist()
    timm = timm_policy(settings(policy), SIZE)
    for code, operation in zip(codes, timm.ops, strict=True):
        operation.aug_fn = partial(record, rows, code, operation.name)
    with global_generators(1):
        for _ in range(count):
            timm(None)
    return np.array(rows + [[NOTHING] * 7] * (count * timm.num_layers - len(rows)))


def record(rows, code, name, _, *levels, **__):
    rows.append([code, *integers(name, *levels, size=SIZE)])


def drawn_by_us(policy, count):
    keys = torch.stack([torch.zeros(count), torch.arange(count), torch.zeros(count)], 1).long()
    batch = BatchAugmentation(settings(policy), (SIZE, SIZE), SIZE, 0, "cpu")
    draws = batch.draw(keys)
    operations, arguments = draws.operations.flatten(), draws.arguments.flatten(0, 1)
    return torch.cat([operations[:, None], arguments * (operations > 0)[:, None]], 1).numpy()


def differing(ours, theirs):
    """Name what differs: how often operations come, or the arguments of one."""
    counts = [np.bincount(one[:, 0], minlength=12) for one in (ours, theirs)]
    found = {"often"} if stats.chi2_contingency(counts).pvalue < 1e-3 else set()
    for code in range(1, 12):
        columns = zip(*(one[one[:, 0] == code, 1:].T for one in (ours, theirs)), strict=True)
        if any(stats.ks_2samp(*pair).pvalue < 1e-4 for pair in columns):
            found.add(code)
    return found


POLICIES = ["rand-m9-mstd0.5-inc1", "rand-m5-n3-mstd101-inc1-p0.8", "rand-m7-mstd2-inc1-mmax8"]


@pytest.mark.parametrize("policy", POLICIES)
def test_operations_come_as_often_and_as_strong_as_timms(policy):
    assert differing(drawn_by_us(policy, 4000), drawn_by_timm(policy, 4000)) == set()


def test_another_policy_would_be_noticed():
    theirs = drawn_by_timm(POLICIES[0], 4000)
    assert MOVE in differing(drawn_by_us("rand-m8-mstd0.5-inc1", 4000), theirs)
    assert COLOUR in differing(drawn_by_us("rand-m8-mstd0.5-inc1", 4000), theirs)
    assert COLOUR in differing(drawn_by_us("rand-m9-mstd3-inc1", 4000), theirs)
    assert "often" in differing(drawn_by_us("rand-m9-mstd0.5-inc1-p0.6", 4000), theirs)
    one_sign = drawn_by_us(POLICIES[0], 4000)
    one_sign[:, 2] = np.abs(one_sign[:, 2])
    assert MOVE in differing(one_sign, theirs)


def test_layers_and_probability_are_the_policys():
    assert drawn_by_us("rand-m9-n3", 50).shape == (150, 7)
    assert (drawn_by_us("rand-m9-p1", 500)[:, 0] > 0).all()
    assert not drawn_by_us("rand-m9-p0", 500).any()
    assert drawn_by_us("rand-m9-n0", 50).shape == (0, 7)


# All together.


def test_means_and_spreads_of_pixels_are_those_of_the_cpu_path():
    image, count = pictures()[1], 2500
    one_by_one = TrainingAugmentation(settings(), SIZE)
    theirs = torch.stack([one_by_one(image, key) for key in range(count)]).double()

    def apart(policy):
        batch = BatchAugmentation(settings(policy), (SIZE, SIZE), SIZE, 0, "cpu")
        keys = torch.stack([torch.zeros(count), torch.arange(count), torch.zeros(count)], 1).long()
        ours = batch.apply(planes(image).expand(count, -1, -1, -1), batch.draw(keys)).double()
        return [float((of(ours) - of(theirs)).abs().mean()) for of in (lambda x: x.mean(0), lambda x: x.std(0))]

    mean, spread = apart("rand-m9-mstd0.5-inc1")  # as far apart as two halves of the CPU's own
    assert mean < 3
    assert spread < 2
    for other in ("rand-m9-mstd0.5-inc1-p0.7", "rand-m9-mstd0.5"):
        mean, spread = apart(other)
        assert mean > 5
        assert spread > 5


def test_pieces_and_batches_do_not_change_the_pixels(monkeypatch):
    batch = BatchAugmentation(settings("rand-m9-n3-p1-mstd0.5-inc1"), (SIZE, SIZE), SIZE, 0, "cpu")
    keys = torch.stack([torch.zeros(40), torch.arange(40), torch.zeros(40)], 1).long()
    images, draws = planes(*pictures() * 8), batch.draw(keys)
    whole, masks = batch.apply(images, draws), batch.apply_to_masks(images, draws)
    assert not whole.equal(images)
    monkeypatch.setattr(batch_augment, "PIECE", {"cpu": SIZE * SIZE, "cuda": 7 * SIZE * SIZE})
    assert batch.apply(images, draws).equal(whole)
    assert batch.apply_to_masks(images, draws).equal(masks)
    assert batch.apply(images[7:9], batch.draw(keys[7:9])).equal(whole[7:9])
    assert batch.apply(images[:0], draws[:0]).shape == (0, 3, SIZE, SIZE)


def test_a_mask_is_moved_as_its_image_and_black_comes_in():
    batch = BatchAugmentation(settings("rand-m9-n3-p1-mstd0.5-inc1"), (SIZE, SIZE), SIZE, 0, "cpu")
    keys = torch.stack([torch.zeros(60), torch.arange(60), torch.zeros(60)], 1).long()
    draws = batch.draw(keys)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    shape = np.repeat((((rows - 9) ** 2 + (columns - 14) ** 2 < 49) * np.uint8(255))[..., None], 3, 2)
    masks = planes(shape).expand(60, -1, -1, -1)
    found = batch.apply_to_masks(masks[:, :1], draws)
    geometry = draws.operations * (draws.operations == MOVE)
    assert found.equal(operated(masks, geometry, draws.arguments, torch.zeros(3, dtype=torch.uint8))[:, :1])
    assert found.equal(moved_alone(masks[:, :1], geometry, draws.arguments))
    still = ~(geometry > 0).any(1)
    assert found[still].equal(masks[still, :1])
    assert 0 < int(still.sum()) < 40
    assert len({one.numpy().tobytes() for one in found}) > 15


# What batches cannot do.


@pytest.mark.parametrize(
    ("policy", "what"),
    [("rand-m9-t3a", "the operation Desaturate"), ("rand-m9-tweights", "operations drawn by weight")],
)
def test_what_batches_lack_is_refused_with_what_to_do(policy, what, says):
    with says(
        RecipeError,
        f"rand_augment '{policy}' has {what}, which batches on the device lack; give --augment-on cpu (and leave "
        "--on-device out), or a policy without 't'",
    ):
        BatchAugmentation(settings(policy), (SIZE, SIZE), SIZE, 0, "cpu")
    TrainingAugmentation(settings(policy), SIZE)
    with says(RecipeError, "timm does not know the policy rand_augment 'rand-x9'"):
        batch_policy(settings("rand-x9"), SIZE, "cpu")


def test_global_generators_are_not_touched():
    before = random.getstate(), torch.get_rng_state()
    drawn_by_us("rand-m9-mstd0.5-inc1", 3)
    assert random.getstate() == before[0]
    assert torch.get_rng_state().equal(before[1])
