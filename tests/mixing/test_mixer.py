"""The mixer: laws over a table of mixers, its statistics, its refusals, and wrong mixers that the laws must reject."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from transmix import Mixer, TransMixWarning
from transmix.mixing import METHODS, FMix, ResizeMix

MIXERS = {
    "both": {},
    "mixup": {"cutmix_alpha": 0},
    "cutmix": {"mixup_alpha": 0},
    "minmax": {"mixup_alpha": 0, "cutmix_minmax": (0.2, 0.8)},
    "minmax without alpha": {"cutmix_alpha": 0, "cutmix_minmax": (0.2, 0.8)},
    "elem": {"mode": "elem", "prob": 0.8},
    "pair": {"mode": "pair"},
    "random partner": {"partner": "random"},
    "random partner, elem": {"partner": "random", "mode": "elem"},
    "half of the batches": {"prob": 0.5},
    "lam as drawn": {"mixup_alpha": 0, "correct_lam": False},
    **{name: {"methods": [method()]} for name, method in METHODS.items() if not hasattr(method, "looks_at")},
    "soft fmix, elem": {"methods": [FMix(soft=0.3)], "mode": "elem"},
    "bilinear resizemix, elem": {"methods": [ResizeMix(interpolation="bilinear")], "mode": "elem", "prob": 0.8},
}
every_mixer = pytest.mark.parametrize("settings", MIXERS.values(), ids=MIXERS)


def seeded(seed=0, **settings):
    return Mixer(generator=torch.Generator().manual_seed(seed), **settings)


def a_batch(size=3, height=10, width=14, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, height, width, generator=rng), torch.arange(size) % 4


def blend_and_paste(draw, images):
    """The slow way, in NumPy, row by row."""
    way = draw.interpolation if images.is_floating_point() else "nearest"
    images, size = images.double().numpy(), len(draw.partner)
    rows = draw.rows if len(draw.lam) == size else draw.rows * size
    mixed = images.copy()
    for row, (one, partner) in enumerate(zip(rows, draw.partner, strict=True)):
        theirs, box = images[partner], one.box
        if one.shape is not None:
            share = one.shape.mask(draw.height, draw.width).double().numpy()
            mixed[row] = (1 - share) * images[row] + share * theirs
        elif box is None:
            mixed[row] = one.lam * images[row] + (1 - one.lam) * theirs
        else:
            theirs = resized(theirs, one.source_box, box, way) if one.source_box else cut(theirs, box)
            cut(mixed[row], box)[:] = theirs
    return mixed


def cut(image, box):
    top, left, bottom, right = box
    return image[:, top:bottom, left:right]


def resized(image, source, box, way):
    """A source box in the size of a box, by torch; the nearest pixel by its definition."""
    top, left, bottom, right = source
    size = box[2] - box[0], box[3] - box[1]
    if way == "nearest":
        steps = ((bottom - top) / max(size[0], 1), (right - left) / max(size[1], 1))
        down, across = (
            [first + int(np.float32(at) * np.float32(step)) for at in range(n)]
            for first, n, step in zip((top, left), size, steps, strict=True)
        )
        return image[:, down][:, :, across]
    if 0 in size:
        return cut(image, box)
    one = torch.from_numpy(cut(image, source)).float()[None]
    return F.interpolate(one, size, mode="bilinear", align_corners=way == "bilinear corners")[0].double().numpy()


# ------------------------------------------------------------------------------------------------- the laws


def mixes_as_the_loop(mixer, images, labels):
    mixed, draw = mixer(images, labels), mixer.last
    assert np.allclose(mixed.images, blend_and_paste(draw, images), atol=1e-6)
    assert mixed.partner.tolist() == list(draw.partner)
    assert torch.allclose(mixed.lam, torch.tensor(draw.lam).expand(len(images)))


def lam_is_what_the_box_leaves(mixer, images, labels):
    mixed = mixer(images, labels)
    if mixed.mask is None:
        return
    assert mixed.mask.shape in ((1, *images.shape[-2:]), (len(images), *images.shape[-2:]))
    masks = mixed.mask.expand(len(images), -1, -1)
    has_box = masks.flatten(1).any(1)
    left = 1 - masks.float().mean((1, 2))
    assert torch.allclose(mixed.lam[has_box], left[has_box], atol=1e-6)


def inputs_stay_as_they_were(mixer, images, labels):
    images_before, labels_before = images.clone(), labels.clone()
    mixed = mixer(images, labels)
    mixed.images.zero_()
    assert torch.equal(images, images_before)
    assert torch.equal(labels, labels_before)


def numpy_state():
    """Key and position: a draw moves the position, and changes the key only once in 624."""
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002
    return key.tolist(), position


def global_random_states_stay_as_they_were(mixer, images, labels):
    before = random.getstate(), numpy_state(), torch.get_rng_state()
    mixer(images, labels)
    assert random.getstate() == before[0]
    assert numpy_state() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


LAWS = (mixes_as_the_loop, lam_is_what_the_box_leaves, inputs_stay_as_they_were, global_random_states_stay_as_they_were)


class Remembering(Mixer):
    """A mixer that keeps its last draw, for the loop to repeat."""

    def draw(self, *size):
        self.last = super().draw(*size)
        return self.last


@pytest.mark.parametrize("law", LAWS)
@every_mixer
@given(size=st.integers(2, 5), height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_every_mixer_obeys(law, settings, size, height, width, seed):
    if law is lam_is_what_the_box_leaves and not settings.get("correct_lam", True):
        return
    mixer = Remembering(generator=torch.Generator().manual_seed(seed), **settings)
    law(mixer, *a_batch(size, height, width, seed))


class OwnPixels(Remembering):
    def __call__(self, images, labels):
        draw = self.draw(len(images), *images.shape[-2:])
        return replace(draw, partner=tuple(range(len(images)))).apply(images, labels)


class Turned(Remembering):
    def __call__(self, images, labels):
        draw = self.draw(len(images), images.shape[-1], images.shape[-2])
        return replace(draw, height=images.shape[-2], width=images.shape[-1]).apply(images, labels)


class LamTurned(Remembering):
    def __call__(self, images, labels):
        mixed = super().__call__(images, labels)
        return replace(mixed, lam=1 - mixed.lam)


class InPlace(Remembering):
    def __call__(self, images, labels):
        mixed = super().__call__(images, labels)
        return replace(mixed, images=images.copy_(mixed.images))


class Aliasing(Remembering):
    def __call__(self, images, labels):
        return replace(super().__call__(images, labels), images=images)


def drawing_from(source):
    class FromGlobal(Remembering):
        def draw(self, *size):
            source()
            return super().draw(*size)

    return FromGlobal


WRONG = {
    "own pixels": (OwnPixels, mixes_as_the_loop, {}),
    "turned": (Turned, lam_is_what_the_box_leaves, {}),
    "lam turned": (LamTurned, mixes_as_the_loop, {}),
    "lam turned, of a box": (LamTurned, lam_is_what_the_box_leaves, {}),
    "lam as drawn": (Remembering, lam_is_what_the_box_leaves, {"correct_lam": False}),
    "in place": (InPlace, inputs_stay_as_they_were, {}),
    "aliasing": (Aliasing, inputs_stay_as_they_were, {}),
    "torch's generator": (drawing_from(lambda: torch.rand(1)), global_random_states_stay_as_they_were, {}),
    "NumPy's generator": (drawing_from(np.random.rand), global_random_states_stay_as_they_were, {}),
    "Python's generator": (drawing_from(random.random), global_random_states_stay_as_they_were, {}),
}


@pytest.mark.parametrize(("wrong", "law", "settings"), WRONG.values(), ids=WRONG)
def test_a_wrong_mixer_is_rejected(wrong, law, settings):
    mixer = wrong(mixup_alpha=0, generator=torch.Generator().manual_seed(0), **settings)

    def ten_batches():
        for _ in range(10):
            law(mixer, *a_batch())

    with pytest.raises((AssertionError, ValueError)):  # a draw that leaves the image is refused before it is mixed
        ten_batches()


# --------------------------------------------------------------------------------------- draws and generators


@every_mixer
def test_the_same_seed_gives_the_same_draws(settings):
    mixers = [seeded(seed, **settings) for seed in (1, 1, 2)]
    draws = [[mixer.draw(5, 8, 12) for _ in range(8)] for mixer in mixers]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert len(set(draws[0])) > 1


@every_mixer
def test_a_draw_replayed_equals_the_call(settings):
    images, labels = a_batch()
    called = seeded(3, **settings)(images, labels)
    draw = seeded(3, **settings).draw(3, 10, 14)
    for replayed in (draw.apply(images, labels), draw.apply(images, labels)):
        assert torch.equal(replayed.images, called.images)
        assert torch.equal(replayed.lam, called.lam)
        assert torch.equal(replayed.partner, called.partner)
        assert (replayed.mask is None and called.mask is None) or torch.equal(replayed.mask, called.mask)


def test_without_a_generator_the_seed_is_torchs():
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        first, second = Mixer(), Mixer()
        torch.manual_seed(12)
        third = Mixer()
    draws = [[mixer.draw(4, 8, 12) for _ in range(4)] for mixer in (first, second, third)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generators_state_is_all_that_a_mixer_remembers():
    mixer = seeded(5)
    state = mixer.generator.get_state()
    first = [mixer.draw(4, 8, 12) for _ in range(3)]
    mixer.generator.set_state(state)
    assert [mixer.draw(4, 8, 12) for _ in range(3)] == first


def test_a_draw_for_another_size_is_refused(says):
    draw = seeded().draw(3, 10, 14)
    with says(ValueError, "this draw is for 3 images of 10 x 14, not 3 of 14 x 10"):
        draw.apply(*a_batch(3, 14, 10))


def test_partners_flip_the_batch_or_are_a_permutation():
    assert seeded().draw(5, 8, 12).partner == (4, 3, 2, 1, 0)
    mixer = seeded(partner="random")
    partners = [mixer.draw(5, 8, 12).partner for _ in range(20)]
    assert all(sorted(partner) == [0, 1, 2, 3, 4] for partner in partners)
    assert len(set(partners)) > 10


def test_a_pair_shares_its_draw_and_the_middle_of_an_odd_batch_stays():
    draw = seeded(mode="pair").draw(5, 8, 12)
    assert draw.lam == draw.lam[::-1]
    assert draw.boxes == draw.boxes[::-1]
    assert (draw.lam[2], draw.boxes[2]) == (1.0, None)
    assert draw.lam[0] != draw.lam[1]


def test_elem_draws_each_row_for_itself():
    draw = seeded(mode="elem").draw(5, 8, 12)
    assert len(set(draw.lam)) == 5


# ------------------------------------------------------------------------- batches that stay, and other types


def test_a_batch_of_one_warns_once_and_stays():
    mixer, (images, labels) = seeded(), a_batch(1)
    with pytest.warns(TransMixWarning) as caught:
        mixed = mixer(images, labels)
    assert [str(warning.message) for warning in caught] == ["a batch of one image has no partner and stays unmixed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = mixer(images, labels)
    for result in (mixed, again):
        assert_unmixed(result, images)


def assert_unmixed(mixed, images):
    assert torch.equal(mixed.images, images)
    assert torch.equal(mixed.lam, torch.ones(len(images)))
    assert mixed.mask is None
    assert mixed.images is not images


@every_mixer
def test_a_mixer_turned_off_leaves_the_batch(settings):
    mixer = seeded(**settings)
    mixer.enabled = False
    images, labels = a_batch()
    assert_unmixed(mixer(images, labels), images)
    assert_unmixed(mixer(images[:1], labels[:1]), images[:1])  # and does not warn
    mixer.enabled = True
    assert any(not torch.equal(mixer(images, labels).images, images) for _ in range(20))


@every_mixer
def test_bytes_stay_bytes_and_are_rounded_and_channels_last_is_kept(settings):
    images, labels = a_batch(5)
    images = (images * 255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last)
    for seed in range(4):
        draw = seeded(seed, **settings).draw(5, 10, 14)
        mixed = draw.apply(images, labels)
        assert mixed.images.dtype == torch.uint8
        assert mixed.images.is_contiguous(memory_format=torch.channels_last)
        exact = blend_and_paste(draw, images)
        assert np.abs(mixed.images.numpy() - exact).max() <= 0.5 + 1e-4


@every_mixer
@pytest.mark.parametrize("kind", [torch.int32, torch.float32, torch.float64])
def test_labels_of_any_type_are_mixed(settings, kind):
    images, labels = a_batch(5)
    given_labels = labels.to(kind) if kind == torch.int32 else torch.nn.functional.one_hot(labels, 4).to(kind)
    by_class = seeded(1, **settings)(images, labels).targets(4, 0.1)
    assert torch.allclose(seeded(1, **settings)(images, given_labels).targets(4, 0.1), by_class, atol=1e-6)


# ------------------------------------------------------------------------------------------------ statistics


def box_shares(count=4000, height=24, width=40, **settings):
    mixer = seeded(7, mixup_alpha=0, **settings)
    boxes = [mixer.draw(2, height, width).boxes[0] for _ in range(count)]
    return np.array([(b - t) * (r - left) / (height * width) for t, left, b, r in boxes])


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_mean_pasted_area_is_that_of_a_simulation(alpha):
    rng, count, height, width = np.random.default_rng(0), 40_000, 24, 40
    side = np.sqrt(1 - rng.beta(alpha, alpha, count))
    tall, wide = (height * side).astype(int), (width * side).astype(int)
    top, left = rng.integers(0, height, count) - tall // 2, rng.integers(0, width, count) - wide // 2
    inside = (np.minimum(top + tall, height) - np.maximum(top, 0)) * (
        np.minimum(left + wide, width) - np.maximum(left, 0)
    )
    simulated, drawn = inside / (height * width), box_shares(cutmix_alpha=alpha)
    assert abs(drawn.mean() - simulated.mean()) < 0.015
    assert abs(drawn.std() - simulated.std()) < 0.015
    unclipped = tall * wide / (height * width)
    assert abs(unclipped.mean() - simulated.mean()) > 0.05  # the test tells a clipped box from one that is not


def test_mixups_weight_is_beta():
    mixer = seeded(7, cutmix_alpha=0, mixup_alpha=0.8)
    lam = np.array([mixer.draw(2, 8, 12).lam[0] for _ in range(4000)])
    beta = np.random.default_rng(0).beta(0.8, 0.8, 40_000)
    assert np.allclose(
        np.quantile(lam, [0.1, 0.25, 0.5, 0.75, 0.9]), np.quantile(beta, [0.1, 0.25, 0.5, 0.75, 0.9]), atol=0.03
    )
    flat = np.random.default_rng(0).beta(2.0, 2.0, 40_000)
    assert not np.allclose(np.quantile(lam, [0.1, 0.9]), np.quantile(flat, [0.1, 0.9]), atol=0.03)


@pytest.mark.parametrize("chance", [0.0, 0.2, 0.5, 1.0])
def test_switch_prob_is_the_share_of_cutmix(chance):
    mixer = seeded(7, switch_prob=chance)
    share = np.mean([mixer.draw(2, 8, 12).boxes[0] is not None for _ in range(3000)])
    assert abs(share - chance) < 0.03


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_prob_is_the_share_that_is_mixed(mode, chance):
    mixer = seeded(7, prob=chance, mode=mode, cutmix_alpha=0)
    share = np.mean([np.mean([lam < 1 for lam in mixer.draw(4, 8, 12).lam]) for _ in range(2000)])
    assert abs(share - chance) < 0.04


def test_minmax_reaches_both_bounds():
    mixer = seeded(7, mixup_alpha=0, cutmix_minmax=(0.2, 0.8))
    boxes = [mixer.draw(2, 20, 30).boxes[0] for _ in range(800)]
    assert {bottom - top for top, _, bottom, _ in boxes} == {*range(4, 17)}
    assert {right - left for _, left, _, right in boxes} == {*range(6, 25)}
    assert {0, 16} <= {top for top, *_ in boxes}


def test_lam_as_drawn_is_beta_whatever_is_cut_off():
    mixer = seeded(7, mixup_alpha=0, correct_lam=False)
    draws = [mixer.draw(2, 8, 12) for _ in range(2000)]
    lam = np.array([draw.lam[0] for draw in draws])
    left = np.array([1 - (b - t) * (r - x) / 96 for t, x, b, r in (draw.boxes[0] for draw in draws)])
    assert abs(lam.mean() - 0.5) < 0.03
    assert left.mean() > 0.6
    assert (left >= lam - 1e-9).all()  # a box loses pixels, never gains


# -------------------------------------------------------------------------------------------------- refusals

RISING = "cutmix_minmax must be two rising fractions in [0, 1], not"
REFUSED = {
    "mixup_alpha": ({"mixup_alpha": -1}, "alpha must not be negative: mixup -1, cutmix 1.0"),
    "cutmix_alpha": ({"cutmix_alpha": -0.5}, "alpha must not be negative: mixup 0.8, cutmix -0.5"),
    "nothing": ({"mixup_alpha": 0, "cutmix_alpha": 0}, "nothing to mix with: mixup_alpha and cutmix_alpha are both 0"),
    "minmax falls": ({"cutmix_minmax": (0.8, 0.2)}, f"{RISING} (0.8, 0.2)"),
    "minmax above 1": ({"cutmix_minmax": (0.2, 1.2)}, f"{RISING} (0.2, 1.2)"),
    "prob": ({"prob": 1.2}, "prob is a probability, not 1.2"),
    "switch_prob": ({"switch_prob": -0.1}, "switch_prob is a probability, not -0.1"),
    "mode": ({"mode": "half"}, "mode must be 'batch', 'pair' or 'elem', not 'half'"),
    "partner": ({"partner": "roll"}, "partner must be 'flip' or 'random', not 'roll'"),
    "random pairs": (
        {"mode": "pair", "partner": "random"},
        "mode 'pair' mixes two rows into each other: it needs partner='flip'",
    ),
}


@pytest.mark.parametrize(("settings", "text"), REFUSED.values(), ids=REFUSED)
def test_a_parameter_out_of_its_range_is_refused(settings, text, says):
    with says(ValueError, text):
        Mixer(**settings)


def test_labels_of_another_batch_are_refused_before_anything_is_drawn():
    mixer = seeded()
    state = mixer.generator.get_state()
    with pytest.raises(ValueError, match="3 images came with 2 labels"):
        mixer(a_batch()[0], torch.tensor([0, 1]))
    assert torch.equal(mixer.generator.get_state(), state)
