"""The mixer against timm's `Mixup`: the same draw gives the same images and labels, in every mode."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transmix import Draw, Mixer

timm_mixup = pytest.importorskip("timm.data.mixup")

CLASSES, SMOOTHING, HEIGHT, WIDTH = 5, 0.1, 12, 20
METHODS = {
    "mixup": {"cutmix_alpha": 0},
    "cutmix": {"mixup_alpha": 0},
    "minmax": {"mixup_alpha": 0, "cutmix_minmax": (0.2, 0.8)},
    "both": {},
    "drawn lam": {"mixup_alpha": 0, "correct_lam": False},
    "half": {"prob": 0.5},
}
every_method = pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
every_mode = pytest.mark.parametrize("mode", ["batch", "pair", "elem"])


def give_timm_our_draw(monkeypatch, draw):
    """Let timm mix as `draw` says: its own draws are replaced, all that it does with them stays."""
    rows = list(zip(draw.lam, draw.boxes, strict=True))
    cuts = iter([(box, lam) for lam, box in rows if box is not None])

    def box_and_lam(*_, **__):
        (top, left, bottom, right), lam = next(cuts)
        return (top, bottom, left, right), lam

    # timm looks at lam before it has a box and leaves rows of lam 1 alone: rows with a box say 0.5 until then.
    lam = np.array([0.5 if box is not None else weight for weight, box in rows], dtype=np.float32)
    cut = np.array([box is not None for _, box in rows])
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", box_and_lam)
    monkeypatch.setattr(timm_mixup.Mixup, "_params_per_elem", lambda self, size: (lam[:size].copy(), cut[:size]))
    first = 0.5 if cut[0] else rows[0][0]
    monkeypatch.setattr(timm_mixup.Mixup, "_params_per_batch", lambda self: (first, bool(cut[0])))


def a_batch(size, kind=torch.float32):
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, HEIGHT, WIDTH, generator=rng)
    images = (images * 255).round().to(kind) if kind == torch.uint8 else images.to(kind)
    return images, torch.randint(0, CLASSES, (size,), generator=rng)


def draws(mode, settings, size, count=6):
    mixer = Mixer(mode=mode, generator=torch.Generator().manual_seed(0), **settings)
    return [mixer.draw(size, HEIGHT, WIDTH) for _ in range(count)]


def assert_equals_timm(monkeypatch, draw, mode, images, labels, apply):
    give_timm_our_draw(monkeypatch, draw)
    timm = timm_mixup.Mixup(mode=mode, label_smoothing=SMOOTHING, num_classes=CLASSES)
    expected_images, expected_targets = timm(images.clone(), labels.clone())
    mixed = apply(draw, images, labels)
    assert torch.allclose(mixed.images, expected_images, rtol=0, atol=1e-6)
    assert torch.allclose(mixed.targets(CLASSES, SMOOTHING), expected_targets.float(), rtol=0, atol=1e-6)


@every_method
@every_mode
@pytest.mark.parametrize("size", [2, 6])
def test_images_and_labels_equal_timms(monkeypatch, mode, settings, size):
    images, labels = a_batch(size)
    for draw in draws(mode, settings, size):
        assert_equals_timm(monkeypatch, draw, mode, images, labels, lambda draw, *batch: draw.apply(*batch))


@every_mode
def test_pasted_pixels_are_timms_to_the_bit(monkeypatch, mode):
    images, labels = a_batch(6)
    draw = draws(mode, {"mixup_alpha": 0}, 6, count=1)[0]
    give_timm_our_draw(monkeypatch, draw)
    expected, _ = timm_mixup.Mixup(mode=mode, num_classes=CLASSES)(images.clone(), labels)
    assert torch.equal(draw.apply(images, labels).images, expected)


@every_mode
def test_blended_pixels_are_within_two_roundings_of_the_exact_ones(mode):
    images, labels = a_batch(6)
    for draw in draws(mode, {"cutmix_alpha": 0}, 6):
        lam = torch.tensor(draw.lam, dtype=torch.float64).view(-1, 1, 1, 1)
        exact = lam * images.double() + (1 - lam) * images.double().flip(0)
        assert (draw.apply(images, labels).images - exact).abs().max() <= 2 * torch.finfo(torch.float32).eps


def test_a_row_that_keeps_its_image_keeps_every_bit():
    images, labels = a_batch(4)
    draw = Draw(HEIGHT, WIDTH, (3, 2, 1, 0), (1.0, 0.3, 1.0, 0.0), (None,) * 4)
    mixed = draw.apply(images, labels).images
    for row, same in ((0, 0), (2, 2), (3, 0)):
        assert torch.equal(mixed[row], images[same])
    assert not torch.equal(mixed[1], images[1])


WRONG = {
    "own pixels": lambda draw, *batch: replace(draw, partner=tuple(range(len(draw.partner)))).apply(*batch),
    "lam turned": lambda draw, *batch: replace(draw, lam=tuple(1 - lam for lam in draw.lam)).apply(*batch),
    "label turned": lambda draw, *batch: turn_label(draw.apply(*batch)),
    "rows turned": lambda draw, *batch: replace(draw, lam=draw.lam[1:] + draw.lam[:1]).apply(*batch),
    "labels flipped": lambda draw, images, labels: draw.apply(images, labels.flip(0)),
}


def turn_label(mixed):
    return replace(mixed, lam=1 - mixed.lam)


# One draw for the batch has no rows to turn.
WRONG_MODES = [
    (name, mode) for name in WRONG for mode in ("batch", "pair", "elem") if (name, mode) != ("rows turned", "batch")
]


@pytest.mark.parametrize(("name", "mode"), WRONG_MODES)
def test_a_wrong_mixer_does_not_equal_timm(monkeypatch, name, mode):
    images, labels = torch.rand(4, 3, HEIGHT, WIDTH), torch.tensor([0, 1, 2, 3])
    draw = draws(mode, {"cutmix_alpha": 0}, 4, count=1)[0]
    with pytest.raises(AssertionError):
        assert_equals_timm(monkeypatch, draw, mode, images, labels, WRONG[name])


@pytest.mark.parametrize("settings", [METHODS["mixup"], METHODS["cutmix"]], ids=["mixup", "cutmix"])
@every_mode
def test_bytes_equal_timms_fast_collate(monkeypatch, mode, settings):
    images, labels = a_batch(4, torch.uint8)
    for draw in draws(mode, settings, 4):
        give_timm_our_draw(monkeypatch, draw)
        collate = timm_mixup.FastCollateMixup(mode=mode, label_smoothing=SMOOTHING, num_classes=CLASSES)
        batch = [(image.numpy(), int(label)) for image, label in zip(images.clone(), labels, strict=True)]
        expected_images, expected_targets = collate(batch)
        mixed = draw.apply(images, labels)
        # timm weighs in float64 or float32 by mode: a value on the edge of two bytes may fall either way
        difference = (mixed.images.int() - expected_images.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.001
        assert torch.allclose(mixed.targets(CLASSES, SMOOTHING), expected_targets.float(), rtol=0, atol=1e-6)
