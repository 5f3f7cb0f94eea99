"""`mixed.apply` and `mixed.pasted` against loops over pixels: boxes, soft masks, boxes moved and resized, integers."""

import math
import random
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from transmix import Draw, Mixer, cutmix, mixup
from transmix.mixing import CutMix, Mixup, Row

HEIGHT, WIDTH = 7, 11


@dataclass(frozen=True)
class Ramp:
    """A soft mask: more of the partner from left to right."""

    slope: float

    def mask(self, height, width):
        return (torch.arange(width) * self.slope / width).clamp(0, 1).expand(height, width).clone()


@dataclass(frozen=True)
class Checkers:
    """A hard mask that is no box."""

    def mask(self, height, width):
        return (torch.arange(height)[:, None] + torch.arange(width)[None]) % 2 == 0


def random_box(draw, least=0):
    top, left = draw(st.integers(0, HEIGHT - least)), draw(st.integers(0, WIDTH - least))
    return top, left, draw(st.integers(top + least, HEIGHT)), draw(st.integers(left + least, WIDTH))


@st.composite
def draws(draw, blends=True, soft=True, moved=True):
    """A draw with rows of every kind."""
    size = draw(st.integers(1, 5))
    kinds = ["box", "checkers", "unmixed", *["blend"] * blends, *["soft"] * soft, *["moved"] * moved]
    count = draw(st.sampled_from([1, size]))
    lam, boxes, sources, shapes = [], [], [], []
    for _ in range(count):
        kind = draw(st.sampled_from(kinds))
        box = random_box(draw, least=kind == "moved") if kind in ("box", "moved") else None
        source = random_box(draw, least=1) if kind == "moved" else None
        if source is not None and draw(st.booleans()):  # fractions of a pixel at the bottom and on the right
            cut_off = draw(st.floats(0, 0.9))
            source = *source[:2], source[2] - cut_off, source[3] - cut_off
        shape = {"soft": Ramp(draw(st.floats(0, 2))), "checkers": Checkers()}.get(kind)
        lam.append(draw(st.floats(0, 1, width=32)) if kind == "blend" else 1.0 if kind == "unmixed" else 0.5)
        boxes.append(box)
        sources.append(source)
        shapes.append(shape)
    partner = tuple(draw(st.permutations(range(size))))
    whole = all(source is None or source[2] == int(source[2]) for source in sources)
    how = draw(st.sampled_from(["nearest", "bilinear", "bilinear corners"] if whole else ["nearest"]))
    return Draw(
        HEIGHT,
        WIDTH,
        partner,
        tuple(lam),
        tuple(boxes),
        tuple(sources) if any(sources) else (),
        tuple(shapes) if any(shapes) else (),
        how,
    )


def slow(drawn, tensor):
    """Mix by loops: each row, then each pixel; a resized box by torch's interpolate of the source alone."""
    mixed = tensor.clone().double()
    for row in range(len(tensor)):
        at = row if len(drawn.lam) > 1 else 0
        box, own, theirs = drawn.boxes[at], tensor[row].double(), tensor[drawn.partner[row]].double()
        shape = drawn.shapes[at] if drawn.shapes else None
        source = drawn.source_boxes[at] if drawn.source_boxes else None
        if box is None and shape is None:
            mixed[row] = drawn.lam[at] * own + (1 - drawn.lam[at]) * theirs
            continue
        if shape is not None:
            share = shape.mask(HEIGHT, WIDTH).double()
        else:
            share = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
            share[box[0] : box[2], box[1] : box[3]] = 1
        if source is not None and box is not None and share.any():
            inside = theirs[..., source[0] : math.ceil(source[2]), source[1] : math.ceil(source[3])]
            inside, size = inside.reshape(1, -1, *inside.shape[-2:]).float(), _sides(box)
            if drawn.interpolation == "nearest":
                steps = [torch.tensor((source[2 + at] - source[at]) / size[at]) for at in (0, 1)]
                down, across = ((torch.arange(n) * step).long() for n, step in zip(size, steps, strict=True))
                resized = inside[..., down, :][..., across].double()
            else:
                corners = drawn.interpolation == "bilinear corners"
                resized = F.interpolate(inside, size, mode="bilinear", align_corners=corners).double()
            theirs = theirs.clone()
            theirs[..., box[0] : box[2], box[1] : box[3]] = resized.view(*theirs.shape[:-2], *size)
        mixed[row] = (1 - share) * own + share * theirs
    return mixed


def _sides(box):
    return box[2] - box[0], box[3] - box[1]


def batch_of(size, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, HEIGHT, WIDTH, generator=rng), torch.arange(size)


@settings(max_examples=150, deadline=None)
@given(draws(), st.integers(0, 99))
def test_images_and_everything_else_are_mixed_as_the_slow_way_does(drawn, seed):
    images, labels = batch_of(len(drawn.partner), seed)
    mixed = drawn.apply(images, labels)
    assert torch.allclose(mixed.images.double(), slow(drawn, images), atol=1e-5)
    assert torch.equal(mixed.apply(images), mixed.images)
    view = torch.rand(len(images), 2, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed + 1))
    assert torch.allclose(mixed.apply(view).double(), slow(drawn, view), atol=1e-5)
    assert torch.allclose(mixed.apply(view[:, 0, 0]).double(), slow(drawn, view[:, 0, 0]), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(draws(blends=False, soft=False), st.integers(0, 99))
def test_integers_are_taken_whole_from_one_of_both(drawn, seed):
    images, labels = batch_of(len(drawn.partner), seed)
    mixed = drawn.apply(images, labels)
    rng = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 1000, (len(images), HEIGHT, WIDTH), generator=rng)
    nearest = Draw(HEIGHT, WIDTH, drawn.partner, drawn.lam, drawn.boxes, drawn.source_boxes, drawn.shapes, "nearest")
    assert torch.equal(mixed.apply(classes), slow(nearest, classes).long())
    assert torch.equal(mixed.apply(classes > 500), slow(nearest, (classes > 500).long()) > 0.5)


@pytest.mark.parametrize("case", ["mixup", "soft mask"])
def test_classes_cannot_be_blended(case):
    images, labels = batch_of(3)
    if case == "mixup":
        mixed = mixup(images, labels, 0.3)
    else:
        mixed = Draw(HEIGHT, WIDTH, (2, 1, 0), (0.5,), (None,), (), (Ramp(1.0),)).apply(images, labels)
    for tensor in (torch.zeros(3, HEIGHT, WIDTH, dtype=torch.int64), torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"there is no class between two classes\. Pass tensor\.float"):
            mixed.apply(tensor)
    assert torch.equal(mixed.apply(images), mixed.images)


def test_another_size_or_batch_is_refused():
    images, labels = batch_of(3)
    mixed = cutmix(images, labels, (0, 0, 2, 2))
    for shape in ((2, HEIGHT, WIDTH), (3, HEIGHT, HEIGHT), (3, WIDTH)):
        with pytest.raises(ValueError, match=rf"expected \(3, ..., {HEIGHT}, {WIDTH}\), as the images, got"):
            mixed.apply(torch.zeros(shape))
        with pytest.raises(ValueError, match="as the images, got"):
            mixed.pasted(torch.zeros(shape))


def test_a_box_drawn_empty_with_a_label_of_its_own_is_no_blend():
    """timm's correct_lam=False: the label comes from the Beta draw though nothing was pasted."""
    images, labels = batch_of(2)
    mixed = Draw(HEIGHT, WIDTH, (1, 0), (0.4,), ((3, 3, 3, 3),)).apply(images, labels)
    assert mixed.lam.tolist() == pytest.approx([0.4, 0.4])
    assert torch.equal(mixed.images, images)
    assert torch.equal(mixed.apply(images), images)
    assert torch.equal(
        mixed.apply(torch.ones(2, HEIGHT, WIDTH, dtype=torch.int64)), torch.ones(2, HEIGHT, WIDTH).long()
    )


def test_pasted_moves_the_partner_to_where_it_is_seen():
    images, labels = batch_of(2)
    drawn = Draw(HEIGHT, WIDTH, (1, 0), (0.5,), ((1, 2, 4, 6),), ((0, 0, 6, 8),))
    mixed = drawn.apply(images, labels)
    moved = mixed.pasted(images)
    assert torch.equal(moved[0, :, 1:4, 2:6], images[1, :, 0:6:2, 0:8:2])
    assert torch.equal(moved[0, :, :1], torch.zeros(3, 1, WIDTH))
    assert torch.equal(mixed.images[0, :, 1:4, 2:6], moved[0, :, 1:4, 2:6])
    assert mixed.source_box.tolist() == [[0, 0, 6, 8]] * 2
    assert mixed.box.tolist() == [[1, 2, 4, 6]] * 2


def test_where_the_partner_is_not_seen_its_nan_is_not_either():
    images, labels = batch_of(2)
    images[1, :, :, 6:] = float("nan")
    for drawn in (
        Draw(HEIGHT, WIDTH, (1, 0), (0.5,), ((1, 2, 4, 6),), ((0, 0, 6, 6),), (), "bilinear"),
        Draw(HEIGHT, WIDTH, (1, 0), (0.5,), ((0, 0, 3, 3),)),
    ):
        assert drawn.apply(images, labels).images[0].isfinite().all()


def test_bytes_are_rounded_where_they_are_blended():
    images = torch.randint(0, 256, (3, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    drawn = Draw(HEIGHT, WIDTH, (2, 1, 0), (0.5,), (None,), (), (Ramp(1.0),))
    mixed = drawn.apply(images, torch.arange(3))
    assert mixed.images.dtype == torch.uint8
    assert torch.equal(mixed.images, slow(drawn, images).round().to(torch.uint8))


# The mixer with methods of one's own.


@dataclass(frozen=True)
class Zoom:
    """The whole partner in a box."""

    way: str = "bilinear"

    def draw(self, rng, height, width):
        box = (0, 0, height // 2, width // 2)
        return Row(0.75, box, (0, 0, height, width), interpolation=self.way)


def kinds_of(mixer, number=800):
    rng = [mixer.draw(4, HEIGHT, WIDTH) for _ in range(number)]
    return {
        "zoom": sum(bool(one.source_boxes) for one in rng) / number,
        "box": sum(one.boxes[0] is not None and not one.source_boxes for one in rng) / number,
        "blend": sum(one.boxes[0] is None and one.lam[0] < 1 for one in rng) / number,
    }


def test_methods_are_drawn_in_proportion_to_their_weights():
    generator = torch.Generator().manual_seed(0)
    mixer = Mixer(methods=[(Zoom(), 3), CutMix(), (Mixup(), 2), (Mixup(7.0), 0)], prob=0.9, generator=generator)
    found = kinds_of(mixer)
    assert found == pytest.approx({"zoom": 0.45, "box": 0.15, "blend": 0.3}, abs=0.05)
    assert [type(one) for one in mixer.methods] == [Zoom, CutMix, Mixup]


def test_the_switch_is_cutmix_and_mixup_with_weights_and_draws_the_same():
    switch = Mixer(switch_prob=0.3, generator=torch.Generator().manual_seed(5))
    methods = Mixer(methods=[(CutMix(), 0.3), (Mixup(), 0.7)], generator=torch.Generator().manual_seed(5))
    assert [switch.draw(3, 9, 8) for _ in range(50)] == [methods.draw(3, 9, 8) for _ in range(50)]
    other = Mixer(methods=[(CutMix(), 0.7), (Mixup(), 0.3)], generator=torch.Generator().manual_seed(5))
    assert [Mixer(switch_prob=0.3).draw(3, 9, 8)] != [other.draw(3, 9, 8)]


def test_a_draw_with_shapes_and_sources_is_replayed_from_its_numbers():
    mixer = Mixer(methods=[Zoom(), CutMix()], mode="elem", generator=torch.Generator().manual_seed(1))
    drawn = mixer.draw(6, HEIGHT, WIDTH)
    again = Draw(**{name: getattr(drawn, name) for name in Draw.__dataclass_fields__})
    images, labels = batch_of(6)
    assert drawn == again
    assert torch.equal(drawn.apply(images, labels).images, again.apply(images, labels).images)


@pytest.mark.parametrize(
    ("methods", "error", "text"),
    [
        ([], ValueError, "methods need weights of at least 0 that do not sum to 0, not []"),
        ([(CutMix(), 0)], ValueError, "methods need weights of at least 0 that do not sum to 0, not [0]"),
        ([(CutMix(), -1), CutMix()], ValueError, "methods need weights of at least 0"),
        ([(CutMix(), float("nan"))], ValueError, "methods need weights of at least 0"),
        (["cutmix"], TypeError, "a method has draw(rng, height, width), and str has none"),
    ],
)
def test_methods_that_are_none_are_refused(methods, error, text):
    with pytest.raises(error) as refused:
        Mixer(methods=methods)
    assert text in str(refused.value)


def test_two_ways_to_resize_in_one_batch_are_refused():
    mixer = Mixer(methods=[Zoom("nearest"), Zoom("bilinear")], mode="elem")
    with pytest.raises(ValueError, match="one batch cannot be resized in several ways: bilinear, nearest"):
        mixer.draw(200, HEIGHT, WIDTH)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_a_method_by_itself_needs_an_alpha(alpha):
    for method in (CutMix, Mixup):
        with pytest.raises(ValueError, match=r"draws from Beta\(alpha, alpha\), alpha above 0"):
            method(alpha)


def test_a_method_draws_from_its_generator_alone():
    states = torch.get_rng_state(), random.getstate()
    for method in (CutMix(), Mixup(), CutMix(minmax=(0.2, 0.8))):
        assert method.draw(random.Random(3), 20, 30) == method.draw(random.Random(3), 20, 30)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_a_repr_is_a_line():
    images, labels = batch_of(2)
    assert repr(cutmix(images, labels, (0, 0, 2, 2))) == (
        "Mixed(images (2, 3, 7, 11) float32 cpu, boxes, labels by area)"
    )
    assert repr(mixup(images, labels, 0.5)).endswith("blended, labels by area)")


@dataclass(frozen=True)
class Odd:
    """A mask that is none."""

    kind: str

    def mask(self, height, width):
        return {
            "above 1": torch.full((height, width), 3.0),
            "a row": torch.zeros(1, width),
            "an axis more": torch.zeros(1, height, width),
            "bytes": torch.ones(height, width, dtype=torch.uint8),
            "nan": torch.full((height, width), float("nan")),
        }[self.kind]


@pytest.mark.parametrize("kind", ["above 1", "a row", "an axis more", "bytes", "nan"])
def test_a_mask_that_is_none_is_refused(kind):
    with pytest.raises(ValueError, match=rf"a shape's mask is \({HEIGHT}, {WIDTH}\), bool or float in \[0, 1\], not"):
        Draw(HEIGHT, WIDTH, (1, 0), (0.5,), (None,), (), (Odd(kind),)).apply(*batch_of(2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"boxes": ((-2, 0, 4, 4),)}, "does not lie in an image"),
        ({"boxes": ((4, 4, 12, 12),)}, "does not lie in an image"),
        ({"lam": (1.7,)}, "lam is a weight in [0, 1], not 1.7"),
        ({"lam": (float("nan"),)}, "lam is a weight in [0, 1], not nan"),
        ({"source_boxes": ((0, 0, 99, 4),)}, "does not lie in an image"),
        ({"source_boxes": ((0, 0, 7.5, 4),)}, "does not lie in an image"),
        (
            {"source_boxes": ((0.5, 0, 3, 4),)},
            "a box is four whole numbers (top, left, bottom, right), not (0.5, 0, 3, 4)",
        ),
        ({"source_boxes": ((0, 0, float("nan"), 4),)}, "a source box is four finite numbers"),
        ({"source_boxes": ((2, 2, 2, 2),)}, "source box (2, 2, 2, 2) is empty"),
        ({"interpolation": "bicubic"}, "interpolation is 'nearest' or 'bilinear' or 'bilinear corners', not 'bicubic'"),
        ({"shapes": (Checkers(),)}, "a row has a box or another shape, not both"),
    ],
)
def test_a_draw_that_pixels_and_label_would_take_differently_is_refused(changes, text):
    drawn = {"lam": (0.75,), "boxes": ((0, 0, 4, 4),)} | changes
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is compared
        Draw(HEIGHT, WIDTH, (1, 0), **drawn).apply(*batch_of(2))
    assert text in str(refused.value)


def test_partners_that_are_no_rows_of_the_batch_cannot_be_pasted_again():
    """Figures mix with images that are not in the batch; what these have cannot be known from the record."""
    images, labels = batch_of(2)
    mixed = replace(cutmix(images, labels, (0, 0, 2, 2)), partner=None)
    for use in (mixed.pasted, mixed.apply):
        with pytest.raises(ValueError, match="are no rows of this batch"):
            use(images)
