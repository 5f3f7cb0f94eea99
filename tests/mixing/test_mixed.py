"""`cutmix`, `mixup` and `Mixed.targets` against loops over pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transmix import Mixed, cutmix, mixup


def a_batch(size=3, height=6, width=10, kind=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, height, width, generator=rng)
    images = (images * 255).round().to(kind) if kind == torch.uint8 else images.to(kind)
    return images, torch.randint(0, 5, (size,), generator=rng)


def paste_by_pixel(images, boxes, partner):
    """The slow way, in NumPy."""
    mixed, mask = images.copy(), np.zeros(images.shape[:1] + images.shape[2:], dtype=bool)
    for row, (top, left, bottom, right) in enumerate(boxes):
        for y in range(top, bottom):
            for x in range(left, right):
                mixed[row, :, y, x] = images[partner[row], :, y, x]
                mask[row, y, x] = True
    return mixed, mask


def targets_by_class(labels, partner, lam, classes, smoothing):
    """The slow way: one row and one class at a time."""
    rows = []
    for row in range(len(labels)):
        smooth = [
            [(1 - smoothing) * (label == k) + smoothing / classes for k in range(classes)]
            for label in (int(labels[row]), int(labels[partner[row]]))
        ]
        weight = float(lam[row])
        rows.append([weight * own + (1 - weight) * other for own, other in zip(*smooth, strict=True)])
    return np.array(rows)


@st.composite
def batches_with_boxes(draw):
    size, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))

    def side(length):
        return sorted((draw(st.integers(0, length)), draw(st.integers(0, length))))

    boxes = []
    for _ in range(size):
        (top, bottom), (left, right) = side(height), side(width)
        boxes.append((top, left, bottom, right))
    partner = draw(st.permutations(range(size)))
    return a_batch(size, height, width, seed=draw(st.integers(0, 99))), boxes, torch.tensor(partner)


def assert_pastes_like_the_loop(method, batch, boxes, partner):
    images, labels = batch
    mixed = method(images, labels, boxes, partner)
    pixels, mask = paste_by_pixel(images.numpy(), boxes, partner.numpy())
    assert np.array_equal(mixed.images.numpy(), pixels)
    assert np.array_equal(mixed.mask.numpy(), mask)
    assert np.allclose(mixed.lam, 1 - mask.mean((1, 2)), atol=1e-7)
    assert torch.equal(mixed.lam, mixed.lam_area)


@given(batches_with_boxes())
def test_cutmix_pastes_like_a_loop_over_pixels(case):
    assert_pastes_like_the_loop(cutmix, *case)


WRONG = {
    "turned": lambda images, labels, boxes, partner: cutmix(
        images, labels, [(b[1], b[0], b[3], b[2]) for b in boxes], partner
    ),
    "own pixels": lambda images, labels, boxes, partner: cutmix(images, labels, boxes, torch.arange(len(images))),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_loop_over_pixels_rejects_a_wrong_paste(wrong):
    box = (1, 2, 3, 5)
    with pytest.raises(AssertionError):
        assert_pastes_like_the_loop(wrong, a_batch(2, 6, 6), [box, box], torch.tensor([1, 0]))


def test_one_box_for_the_batch_equals_the_same_box_per_row():
    images, labels = a_batch()
    one, each = cutmix(images, labels, (1, 2, 5, 9)), cutmix(images, labels, [(1, 2, 5, 9)] * 3)
    assert one.mask.shape == (1, 6, 10)
    assert each.mask.shape == (3, 6, 10)
    assert torch.equal(one.images, each.images)
    assert torch.equal(one.lam, each.lam)
    assert torch.equal(one.mask.expand(3, -1, -1), each.mask)


@pytest.mark.parametrize("box", [torch.tensor([1, 2, 5, 9]), torch.tensor([[1, 2, 5, 9]] * 3), ([1, 2, 5, 9],) * 3])
def test_a_box_may_come_as_a_tensor_or_lists(box):
    images, labels = a_batch()
    assert torch.equal(cutmix(images, labels, box).images, cutmix(images, labels, (1, 2, 5, 9)).images)


def test_the_flipped_batch_is_the_default_partner():
    images, labels = a_batch()
    for mixed in (cutmix(images, labels, (0, 0, 6, 10)), mixup(images, labels, 0.0)):
        assert mixed.partner.tolist() == [2, 1, 0]
        assert torch.equal(mixed.images, images.flip(0))
        assert torch.equal(mixed.lam, torch.zeros(3))


@given(st.integers(1, 5), st.floats(0, 1), st.integers(0, 99))
def test_mixup_blends_images_and_labels_alike(size, weight, seed):
    images, labels = a_batch(size, 3, 5, seed=seed)
    mixed = mixup(images, labels, weight)
    expected = images.numpy() * np.float64(weight) + images.numpy()[::-1] * (1 - np.float64(weight))
    assert np.allclose(mixed.images, expected, atol=1e-6)
    assert np.allclose(mixed.lam, weight)
    assert mixed.mask is None
    expected_targets = targets_by_class(labels, mixed.partner, mixed.lam, 5, 0)
    assert np.allclose(mixed.targets(5), expected_targets, atol=1e-6)


def test_mixup_takes_a_weight_per_row():
    images, labels = a_batch()
    lam = torch.tensor([1.0, 0.25, 0.0])
    mixed = mixup(images, labels, lam)
    assert torch.equal(mixed.images[0], images[0])
    assert torch.equal(mixed.images[2], images[0])
    assert torch.equal(mixed.lam, lam)


def test_the_weight_is_that_of_the_rows_own_image():
    images, labels = torch.stack([torch.zeros(3, 4, 8), torch.ones(3, 4, 8)]), torch.tensor([0, 1])
    for mixed in (mixup(images, labels, 0.75), cutmix(images, labels, (0, 0, 2, 4))):
        assert mixed.lam.tolist() == [0.75, 0.75]
        assert mixed.targets(2).tolist() == [[0.75, 0.25], [0.25, 0.75]]
        assert mixed.images[0].mean() == 0.25


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_targets_equal_a_loop_over_classes(size, smoothing):
    images, labels = a_batch(size)
    mixed = mixup(images, labels, torch.linspace(0.1, 0.9, size))
    expected = targets_by_class(labels, mixed.partner, mixed.lam, 7, smoothing)
    targets = mixed.targets(7, smoothing)
    assert targets.dtype == torch.float32
    assert np.allclose(targets, expected, atol=1e-6)
    assert np.allclose(targets.sum(1), 1)
    flipped = targets_by_class(labels, mixed.partner, 1 - mixed.lam, 7, smoothing)
    if size > 1:
        assert not np.allclose(targets, flipped, atol=1e-3)  # the loop tells lam from 1 - lam


def test_float_labels_are_mixed_and_smoothed_like_classes():
    images, labels = a_batch()
    dense = torch.nn.functional.one_hot(labels, 5).double()
    by_class, by_weight = mixup(images, labels, 0.3), mixup(images, dense, 0.3)
    assert torch.equal(by_class.targets(5, 0.1), by_weight.targets(5, 0.1))


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_type_become_int64(kind):
    images, labels = a_batch()
    assert cutmix(images, labels.to(kind), (0, 0, 1, 1)).labels.dtype == torch.int64


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_images_keep_their_type(kind):
    images, labels = a_batch(kind=kind)
    assert cutmix(images, labels, (1, 1, 4, 8)).images.dtype == kind
    assert mixup(images, labels, 0.3).images.dtype == kind


def test_mixup_of_bytes_rounds_instead_of_cutting():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 4)
    mixed = mixup(images, torch.tensor([0, 1]), 0.3)
    assert mixed.images[:, 0, 0, 0].tolist() == [178, 76]  # 178.5 rounds to even, 76.5 too
    mixed = mixup(images, torch.tensor([0, 1]), 0.297)
    assert mixed.images[:, 0, 0, 0].tolist() == [179, 76]  # 179.27, 75.73: cutting would give 75


def test_channels_last_is_kept_and_inputs_are_not_modified():
    images, labels = a_batch()
    images = images.contiguous(memory_format=torch.channels_last)
    before, labels_before = images.clone(), labels.clone()
    for mixed in (
        cutmix(images, labels, (1, 1, 4, 8)),
        cutmix(images, labels, [(1, 1, 4, 8)] * 3),
        mixup(images, labels, 0.3),
        mixup(images, labels, torch.rand(3)),
    ):
        assert mixed.images.is_contiguous(memory_format=torch.channels_last)
        mixed.images.zero_()
        assert torch.equal(images, before)
        assert torch.equal(labels, labels_before)


def test_a_mixed_batch_cannot_be_changed_by_accident():
    mixed = cutmix(*a_batch(), (0, 0, 1, 1))
    with pytest.raises(AttributeError, match="cannot assign to field 'lam'"):
        mixed.lam = torch.ones(3)
    assert mixed.rule == "area"
    assert isinstance(mixed, Mixed)


# ---------------------------------------------------------------------------------------------- through a loader

TENSORS = ("images", "labels", "partner", "lam", "lam_area", "mask")


def assert_every_tensor(mixed, before, holds):
    assert mixed is not before
    assert mixed.rule == before.rule
    for name in TENSORS:
        if getattr(before, name) is None:
            assert getattr(mixed, name) is None
        else:
            assert getattr(mixed, name).shape == getattr(before, name).shape
            assert holds(getattr(mixed, name)), name


@pytest.mark.parametrize("method", ["cutmix", "mixup"])
def test_to_moves_every_tensor_to_the_device(method):
    mixed = cutmix(*a_batch(), (0, 0, 2, 3)) if method == "cutmix" else mixup(*a_batch(), 0.3)
    mixed = replace(mixed, rule="attention")
    there = mixed.to(device="meta", non_blocking=True)
    assert_every_tensor(there, mixed, lambda tensor: tensor.device.type == "meta")
    assert mixed.images.device.type == "cpu"
    with pytest.raises(AssertionError, match="lam"):
        assert_every_tensor(replace(there, lam=mixed.lam), mixed, lambda tensor: tensor.device.type == "meta")


def test_to_the_same_device_changes_no_number():
    mixed = cutmix(*a_batch(), (0, 0, 2, 3))
    same = mixed.to("cpu")
    assert all(torch.equal(getattr(same, name), getattr(mixed, name)) for name in TENSORS)


def test_a_loader_pins_every_tensor(monkeypatch):
    """Without an accelerator nothing can be pinned: what would be is counted instead."""
    from torch.utils.data._utils.pin_memory import pin_memory

    mixed, pinned = cutmix(*a_batch(), (0, 0, 2, 3)), []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.clone()) or pinned[-1])
    (there,) = pin_memory((mixed,))
    assert_every_tensor(there, mixed, lambda tensor: any(tensor is one for one in pinned))
    with pytest.raises(AssertionError, match="mask"):
        assert_every_tensor(replace(there, mask=mixed.mask), mixed, lambda tensor: any(tensor is p for p in pinned))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pinned_record_goes_to_the_gpu():
    mixed = cutmix(*a_batch(), (0, 0, 2, 3))
    pinned = mixed.pin_memory()
    assert_every_tensor(pinned, mixed, lambda tensor: tensor.is_pinned())
    there = pinned.to("cuda", non_blocking=True)
    assert_every_tensor(there, mixed, lambda tensor: tensor.is_cuda)
    assert torch.equal(there.targets(5).cpu(), mixed.targets(5))


IMAGES, LABELS = a_batch()
BOX = (0, 0, 1, 1)
KINDS = "labels must be classes (B,) of an integer type or weights (B, K) of a float type, not"
REFUSED = {
    "images (3, 6, 10)": (lambda: cutmix(IMAGES[0], LABELS, BOX), "images must be (B, C, H, W), not (3, 6, 10)"),
    "too few labels": (lambda: mixup(IMAGES, LABELS[:2], 0.5), "3 images came with 2 labels"),
    "integer weights": (lambda: cutmix(IMAGES, LABELS[:, None].expand(3, 5), BOX), f"{KINDS} (3, 5) torch.int64"),
    "float classes": (lambda: cutmix(IMAGES, torch.ones(3), BOX), f"{KINDS} (3,) torch.float32"),
    "bool classes": (lambda: cutmix(IMAGES, LABELS == 1, BOX), f"{KINDS} (3,) torch.bool"),
    "two boxes": (lambda: cutmix(IMAGES, LABELS, [BOX] * 2), "one box for the batch or one per row (3), not 2"),
    "float partner": (
        lambda: cutmix(IMAGES, LABELS, BOX, torch.zeros(3)),
        "partner must be (3,) row numbers, not (3,) torch.float32",
    ),
    "short partner": (
        lambda: mixup(IMAGES, LABELS, 0.5, torch.tensor([1, 0])),
        "partner must be (3,) row numbers, not (2,) torch.int64",
    ),
    "lam out of range": (lambda: mixup(IMAGES, LABELS, 1.5), "lam must lie in [0, 1], not 1.5"),
    "lam not a number": (lambda: mixup(IMAGES, LABELS, float("nan")), "lam must lie in [0, 1], not nan"),
    "two lam": (lambda: mixup(IMAGES, LABELS, torch.rand(2)), "lam is one number or one per row (3,), not (2,)"),
    "too many columns": (
        lambda: mixup(IMAGES, torch.rand(3, 5), 0.5).targets(6),
        "labels have 5 columns, but there are 6 classes",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call, text, says):
    with says(ValueError, text):
        call()
