"""The methods by themselves: laws over the table, statistics of what they draw, and refusals with their whole text."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transmix import Draw, Mixer
from transmix.mixing import (
    METHODS,
    AttentiveCutMix,
    Block,
    Cells,
    CutMix,
    FMix,
    FourierShape,
    GridCutMix,
    MaskMix,
    Mixup,
    ResizeMix,
    Row,
    SaliencyMix,
    SMMix,
    SnapMix,
    TokenMix,
    cell_mask,
    fourier_image,
    max_min_square,
    paste_mask,
    resizemix,
    saliency_box,
    snapmix,
    square_mix,
    threshold_mask,
    token_blocks,
    top_cells,
)
from transmix.mixing.maps import CleanMaps

UNGUIDED = {name: method() for name, method in METHODS.items() if not hasattr(method, "looks_at")} | {
    "bilinear resizemix": ResizeMix(interpolation="bilinear"),
    "random tokens": TokenMix(kind="random"),
    "soft fmix": FMix(soft=0.2),
    "small cells": MaskMix(cell=3),
}
GUIDED = {name: method() for name, method in METHODS.items() if hasattr(method, "looks_at")}
every_unguided = pytest.mark.parametrize("method", UNGUIDED.values(), ids=UNGUIDED)
every_guided = pytest.mark.parametrize("method", GUIDED.values(), ids=GUIDED)
sizes = st.integers(1, 40)


def a_batch(size=3, height=9, width=14, seed=0, kind=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, height, width, generator=rng).mul(255).to(kind), torch.arange(size)


def drawn(rows, partner, height, width):
    """A draw of rows, as the mixer puts them together."""
    lam, boxes, sources, shapes, ways = zip(*rows, strict=True)
    return Draw(height, width, tuple(partner), lam, boxes, sources, shapes, ways[0])


def numpy_state():
    return np.random.get_state()[1:3]  # noqa: NPY002


# ------------------------------------------------------------------------------------- methods that do not look


@every_unguided
@given(height=sizes, width=sizes, seed=st.integers(0, 2**32))
def test_lam_is_the_area_that_is_left_and_the_draw_is_replayed(method, height, width, seed):
    row = method.draw(random.Random(seed), height, width)
    assert row == method.draw(random.Random(seed), height, width)
    assert hash(row) == hash(method.draw(random.Random(seed), height, width))
    images, labels = a_batch(2, height, width)
    mixed = drawn([row], (1, 0), height, width).apply(images, labels)
    if isinstance(method, Mixup):
        return
    assert torch.allclose(mixed.lam, 1 - mixed.mask.float().mean((1, 2)), atol=1e-6)
    assert torch.equal(mixed.images, mixed.apply(images))


@every_unguided
def test_a_method_leaves_global_random_states(method):
    before = torch.get_rng_state(), random.getstate(), numpy_state()
    row = method.draw(random.Random(3), 20, 30)
    drawn([row], (1, 0), 20, 30).apply(*a_batch(2, 20, 30))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(*pair) for pair in zip(numpy_state(), before[2], strict=True))
    assert method.draw(random.Random(4), 20, 30) != row


@every_unguided
def test_a_method_is_frozen_and_comparable(method):
    assert dataclasses.replace(method) == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.alpha = 2


@every_unguided
def test_bytes_are_mixed_as_floats_are_to_one_rounding(method):
    images, labels = a_batch(3, 20, 30, kind=torch.uint8)
    draw = drawn([method.draw(random.Random(1), 20, 30)], (2, 0, 1), 20, 30)
    nearest = dataclasses.replace(draw, interpolation="nearest")
    mixed, exact = draw.apply(images, labels).images, nearest.apply(images.float(), labels).images
    assert mixed.dtype == torch.uint8
    assert (mixed - exact).abs().max() <= 0.5


@pytest.mark.parametrize("method", [MaskMix(), ResizeMix()])
def test_in_a_batch_rows_share_what_is_drawn_once_and_differ_in_place(method):
    assert method.per_sample
    for seed in range(20):
        shared, rng = method.draw_shared(random.Random(seed)), random.Random(seed + 1)
        rows = [method.draw_with(shared, rng, 32, 48) for _ in range(8)]
        assert len({round(row.lam, 9) for row in rows}) == 1
    assert len({(row.box, row.shape) for row in rows}) > 4


# MaskMix, cells


@given(st.floats(0, 1), sizes, sizes, st.integers(0, 99))
def test_maskmix_keeps_whole_cells_rounded_up(share, height, width, seed):
    row = MaskMix(cell=5).draw_with(share, random.Random(seed), height, width)
    h, w = row.shape.grid
    assert (h, w) == (math.ceil(height / 5), math.ceil(width / 5))
    assert h * w - len(row.shape.taken) == math.ceil(h * w * share)
    mask = row.shape.mask(height, width)
    for y in range(height):
        for x in range(width):
            assert bool(mask[y, x]) == ((y // 5) * w + x // 5 in row.shape.taken)


@pytest.mark.parametrize(
    ("method", "size", "cell"),
    [
        (MaskMix(), (224, 224), 56),
        (MaskMix(), (384, 512), 56),
        (MaskMix(), (34, 64), 9),
        (MaskMix(cell=8), (34, 64), 8),
        (TokenMix(), (224, 224), 16),
        (TokenMix(), (33, 70), 3),
    ],
)
def test_the_default_cell_follows_the_image(method, size, cell):
    assert method.draw(random.Random(0), *size).shape.cell == cell


def test_cells_without_a_size_stretch_over_the_image():
    mask = Cells((2, 3), (0, 5)).mask(5, 7)
    rows, columns = [y * 2 // 5 for y in range(5)], [x * 3 // 7 for x in range(7)]
    assert mask.tolist() == [[y * 3 + x in (0, 5) for x in columns] for y in rows]


@given(sizes, sizes, st.integers(1, 9), st.integers(0, 2**32))
def test_the_boxes_of_gridcutmix_lie_on_cells(height, width, cell, seed):
    top, left, bottom, right = GridCutMix(cell=cell).draw(random.Random(seed), height, width).box
    assert top % cell == left % cell == 0
    assert bottom % cell == 0 or bottom == height
    assert right % cell == 0 or right == width


def test_the_sides_of_gridcutmix_need_not_be_even():
    boxes = [GridCutMix().draw(random.Random(seed), 224, 224).box for seed in range(200)]
    assert {(bottom - top) // 16 % 2 for top, _, bottom, _ in boxes} == {0, 1}
    assert all(side % 16 == 0 for box in boxes for side in box)


# TokenMix


@given(st.floats(0, 1), st.integers(1, 16), st.integers(1, 16), st.integers(0, 2**32))
def test_tokenmix_pastes_no_more_than_is_wanted(lam, h, w, seed):
    wanted = min(h * w, int((1 - lam) * h * w) + 2)
    for kind in ("block", "random"):
        row = TokenMix(lam, minimum=2, cell=3, kind=kind).draw(random.Random(seed), 3 * h, 3 * w)
        assert len(row.shape.taken) == wanted or (kind == "block" and len(row.shape.taken) < wanted)


def test_tokenmix_pastes_112_of_196_tokens_nearly_always():
    counts = [len(TokenMix().draw(random.Random(seed), 224, 224).shape.taken) for seed in range(100)]
    assert sum(count == 112 for count in counts) > 60
    assert min(counts) > 95


def test_ten_blocks_that_do_not_fit_end_a_mask():
    whole, one = Block(4, 4, 0, 0), Block(1, 1, 0, 0)
    assert token_blocks([*[whole] * 9, one], 0.5, (4, 4)).sum() == 1
    assert token_blocks([*[whole] * 10, one], 0.5, (4, 4)).sum() == 0
    assert token_blocks([one, *[one] * 9, Block(1, 1, 1, 1)], 0.5, (4, 4)).sum() == 2  # nothing new is no fit
    assert token_blocks([Block(3, 3, 0, 0), one], 0.5, (4, 4)).sum() == 1  # 9 where 8 are wanted
    assert token_blocks([Block(2, 9)], 0.5, (4, 4)).sum() == 0
    assert token_blocks([], 0.5, (4, 4)).sum() == 0


# FMix


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 99), st.sampled_from(["ceil", "floor"]))
def test_the_brightest_pixels_stay(height, width, lam, seed, rounding):
    rng = torch.Generator().manual_seed(seed)
    gray = torch.rand(height, width, generator=rng)
    mask, keep = threshold_mask(gray, lam, rounding=rounding), getattr(math, rounding)(lam * height * width)
    assert mask.dtype == torch.bool
    assert int((~mask).sum()) == keep
    if mask.any() and not mask.all():
        assert gray[~mask].min() >= gray[mask].max()
    soft = threshold_mask(gray, lam, 0.3, rounding)
    assert soft.dtype == torch.float32
    order = gray.flatten().argsort(descending=True, stable=True)
    assert bool((soft.flatten()[order].diff() >= 0).all())
    assert abs(float(1 - soft.mean()) - lam) <= 1.01 / (height * width)


def fourier_by_sums(normals, height, width, decay):
    """The slow way: a wave for each frequency."""
    image = np.zeros((height, width))
    down, across = np.arange(height)[:, None], np.arange(width)[None]
    for v in range(height):
        for u in range(width // 2 + 1):
            frequency = math.hypot(min(v, height - v) / height, u / width)
            number = complex(*normals[v, u].tolist()) / max(frequency, 1 / max(height, width)) ** decay
            wave = number * np.exp(2j * np.pi * (v * down / height + u * across / width))
            both = 1 if u == 0 or 2 * u == width else 2  # the frequency and its negative one
            image += both * wave.real
    image -= image.min()
    return image / image.max() if image.max() > 0 else image


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 4), st.integers(0, 99))
def test_the_fourier_image_is_a_sum_of_waves(height, width, decay, seed):
    assume(height * width > 1)
    rng = torch.Generator().manual_seed(seed)
    normals = torch.randn(height, width // 2 + 1, 2, generator=rng, dtype=torch.float64)
    gray = fourier_image(normals, height, width, decay)
    assert np.allclose(gray, fourier_by_sums(normals, height, width, decay), atol=1e-6)
    surplus = torch.cat((normals, torch.ones(height, 1, 2, dtype=torch.float64)), dim=1)
    assert torch.equal(fourier_image(surplus, height, width, decay), gray)


def test_fmix_follows_its_shape_numbers():
    row = FMix(soft=0.2).draw(random.Random(0), 20, 30)
    again = FourierShape(**dataclasses.asdict(row.shape))
    assert torch.equal(again.mask(20, 30), row.shape.mask(20, 30))
    assert {FMix().draw(random.Random(seed), 8, 8).shape.rounding for seed in range(20)} == {"ceil", "floor"}


# ResizeMix, SnapMix


@given(sizes, sizes, st.floats(0.05, 1), st.integers(0, 2**32), st.sampled_from(["nearest", "bilinear"]))
def test_resizemix_shows_the_whole_partner(height, width, scale, seed, way):
    row = ResizeMix(scale, scale, way).draw(random.Random(seed), height, width)
    top, left, bottom, right = row.box
    sides = int(height * scale), int(width * scale)
    assert (bottom - top, right - left) == (sides if all(sides) else (0, 0))
    if not all(sides):
        assert row == Row(1.0, (0, 0, 0, 0))
    elif way == "bilinear":
        assert row.source_box == (0, 0, height, width)
    else:
        assert row.source_box[:2] == (0, 0)
        assert row.source_box[2:] == pytest.approx((sides[0] / scale, sides[1] / scale), rel=1e-6)
        images = torch.arange(2.0 * height * width).view(2, 1, height, width)
        mixed = drawn([row], (1, 0), height, width).apply(images, torch.arange(2))
        small = torch.nn.functional.interpolate(images, scale_factor=scale, mode="nearest").flip(0)
        assert torch.equal(mixed.images[..., top:bottom, left:right], small)
        called = resizemix(images, torch.arange(2), row.box, scale=scale)
        assert torch.equal(called.images, mixed.images)
        assert torch.equal(called.source_box, mixed.source_box)


def test_snapmix_draws_two_boxes_and_leaves_a_row_with_an_empty_one():
    rows = [SnapMix().draw(random.Random(seed), 20, 30) for seed in range(50)]
    assert all(row.box != row.source_box for row in rows)
    assert {row.interpolation for row in rows} == {"bilinear corners"}
    images, labels = a_batch(3)
    own = torch.tensor([[0, 0, 4, 4], [2, 2, 2, 6], [1, 1, 3, 3]])
    mixed = snapmix(images, labels, own, (0, 0, 0, 0))
    assert mixed.lam.tolist() == [1, 1, 1]
    assert torch.equal(mixed.images, images)
    mixed = snapmix(images, labels, own, (2, 3, 8, 9))
    assert mixed.mask.flatten(1).sum(1).tolist() == [16, 0, 4]
    assert mixed.lam[1] == 1
    assert torch.equal(mixed.images[1], images[1])
    assert SnapMix().draw(random.Random(0), 1, 1) == Row(1.0, (0, 0, 0, 0))


# paste_mask


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99), st.booleans(), st.booleans())
def test_pasting_by_a_mask_takes_its_share_of_the_partner(size, down, across, seed, soft, shared):
    height, width = 4 * down, 3 * across
    images, labels = a_batch(size, height, width, seed)
    rng = torch.Generator().manual_seed(seed)
    cells = torch.rand(*(() if shared else (size,)), 4, 3, generator=rng)
    cells = cells if soft else cells > 0.5
    partner = torch.randperm(size, generator=rng)
    before = images.clone(), cells.clone()
    mixed = paste_mask(images, labels, cells, partner)
    share = cells.float().expand(size, 4, 3)
    each = share.repeat_interleave(down, 1).repeat_interleave(across, 2)[:, None]
    assert torch.allclose(mixed.images, (1 - each) * images + each * images[partner], atol=1e-3)
    assert torch.allclose(mixed.lam, 1 - share.mean((1, 2)), atol=1e-6)
    assert mixed.mask.shape == (1 if shared else size, height, width)
    assert mixed.mask.dtype == (torch.float32 if soft else torch.bool)
    assert torch.equal(images, before[0])
    assert torch.equal(cells, before[1])
    turned = paste_mask(images, labels, mixed.mask if shared else mixed.mask[torch.arange(size)], partner)
    assert torch.equal(turned.images, mixed.images)


def shares_follow_the_mask(paste):
    """A law by loops over rows and pixels, on square images so that a mask can be turned."""
    images, labels = a_batch(3, 8, 8)
    mask = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) > torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1)
    mixed = paste(images, labels, mask)
    for row in range(3):
        for y in range(8):
            for x in range(8):
                shown = images[2 - row if mask[row, y, x] else row, :, y, x]
                assert torch.equal(mixed.images[row, :, y, x], shown)
        assert float(mixed.lam[row]) == pytest.approx(1 - float(mask[row].float().mean()), abs=1e-6)
    assert torch.equal(mixed.mask, mask)


def mean_lam(images, labels, mask):
    mixed = paste_mask(images, labels, mask)
    return dataclasses.replace(mixed, lam=mixed.lam.mean().expand(3))


WRONG = {
    "roles swapped": lambda images, labels, mask: paste_mask(images, labels, ~mask),
    "labels swapped": lambda images, labels, mask: dataclasses.replace(
        paste_mask(images, labels, mask), lam=1 - paste_mask(images, labels, mask).lam
    ),
    "the batch's mean": mean_lam,
    "mask turned": lambda images, labels, mask: paste_mask(images, labels, mask.mT),
    "masks of the partners": lambda images, labels, mask: paste_mask(images, labels, mask.flip(0)),
    "own pixels": lambda images, labels, mask: paste_mask(images, labels, mask, torch.arange(3)),
}


def test_shares_follow_the_mask():
    shares_follow_the_mask(paste_mask)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_paste_is_rejected(wrong):
    with pytest.raises(AssertionError):
        shares_follow_the_mask(wrong)


def test_an_empty_mask_changes_nothing_and_a_full_one_everything():
    images, labels = a_batch(3)
    for kind in (torch.bool, torch.float32, torch.float64):
        empty, full = (paste_mask(images, labels, torch.full((9, 14), at).to(kind)) for at in (0, 1))
        assert torch.equal(empty.images, images)
        assert torch.equal(full.images, images.flip(0))
        assert (empty.lam.tolist(), full.lam.tolist()) == ([1] * 3, [0] * 3)


def test_a_mask_under_autocast_keeps_its_precision():
    images, labels = a_batch(2, 64, 64)
    mask = torch.zeros(64, 64)
    mask[0, :3] = 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = paste_mask(images, labels, mask)
    assert mixed.lam.dtype == torch.float32
    assert mixed.lam[0] == pytest.approx(1 - 0.3 / 4096, abs=1e-7)


# ---------------------------------------------------------------------------------- methods that look at maps


def maps_of(seed, size, grid):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(size, grid[0] * grid[1], generator=rng)


def placed(method, maps, grid, partner, size, seed=0, rows=None):
    rngs = {row: random.Random(seed) for row in (range(len(maps)) if rows is None else rows)}
    return method.place(rngs, CleanMaps(maps, grid, partner, size))


grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@every_guided
@given(grids, st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_guided_rows_can_be_mixed_and_lam_is_the_area(method, grid, height, width, size, seed):
    grid = (height, width) if method.looks_at == "saliency" and seed % 2 else grid
    maps, partner = maps_of(seed, size, grid), list(range(size))[::-1]
    before = torch.get_rng_state(), random.getstate(), maps.clone()
    rows = placed(method, maps, grid, partner, (height, width), seed)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.equal(maps, before[2])
    assert list(rows) == list(range(size)) or set(rows) == set(range(size))
    images, labels = a_batch(size, height, width)
    mixed = drawn([rows[row] for row in range(size)], partner, height, width).apply(images, labels)
    assert torch.allclose(mixed.lam, 1 - mixed.mask.float().mean((1, 2)), atol=1e-6)
    assert all(isinstance(hash(row), int) for row in rows.values())


@every_guided
@given(st.integers(2, 5), st.integers(0, 99))
def test_permuting_the_batch_permutes_the_rows(method, size, seed):
    maps, grid, whole = maps_of(seed, size, (4, 6)), (4, 6), (32, 48)
    rng = random.Random(seed)
    partner, order = rng.sample(range(size), size), rng.sample(range(size), size)
    rows = placed(method, maps, grid, partner, whole, seed)
    back = {row: at for at, row in enumerate(order)}
    others = placed(method, maps[order], grid, [back[partner[row]] for row in order], whole, seed)
    assert others == {at: rows[row] for at, row in enumerate(order)}
    assert placed(method, maps * 8, grid, partner, whole, seed) == rows
    some = placed(method, maps, grid, partner, whole, seed, rows=[1])
    assert some == {1: rows[1]}
    assert placed(method, maps, grid, partner, whole, seed, rows=[]) == {}


def squares_by_loops(maps, partner, grid, side):
    found = []
    for row in range(len(maps)):
        own, theirs = (maps[at].view(grid).double().numpy() for at in (row, partner[row]))
        places = [(y, x) for y in range(grid[0] - side + 1) for x in range(grid[1] - side + 1)]

        def mass(map_, at):
            return map_[at[0] : at[0] + side, at[1] : at[1] + side].sum()

        least = min(places, key=lambda at, own=own: mass(own, at))
        most = max(places, key=lambda at, theirs=theirs: mass(theirs, at))
        found.append((least, most))
    return [list(map(list, one)) for one in zip(*found, strict=True)]


@given(grids, st.integers(1, 4), st.integers(0, 99), st.data())
def test_squares_are_those_of_a_loop(grid, size, seed, data):
    side = data.draw(st.integers(1, min(grid)))
    maps = maps_of(seed, size, grid)
    partner = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    got = [at.tolist() for at in max_min_square(maps, partner, grid, side)]
    assert got == squares_by_loops(maps, partner, grid, side)


def test_of_equal_squares_and_cells_the_first_is_taken():
    flat = torch.ones(2, 12)
    paste_at, taken_from = max_min_square(flat, torch.tensor([1, 0]), (3, 4), 2)
    assert paste_at.tolist() == taken_from.tolist() == [[0, 0], [0, 0]]
    assert top_cells(flat, (3, 4), 5).flatten(1)[0].tolist() == [False] * 5 + [True] * 7
    assert saliency_box(torch.ones(1, 8, 8), 0.75).tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize(("grid", "size"), [((14, 14), (224, 224)), ((7, 5), (50, 47)), ((9, 16), (90, 100))])
def test_both_squares_of_smmix_have_the_same_pixels(grid, size):
    sides = set()
    for seed in range(40):
        maps = maps_of(seed, 3, grid)
        for row in placed(SMMix(), maps, grid, [2, 1, 0], size, seed).values():
            one, other = ((b - t, r - left) for t, left, b, r in (row.box, row.source_box))
            assert one == other
            assert row.box[2] <= size[0]
            assert row.source_box[3] <= size[1]
            sides.add(one)
    sizes = [(side * size[0] // grid[0], side * size[1] // grid[1]) for side in range(1, min(grid) + 1)]
    low, high = max(int(min(grid) / 4), 1), int(3 * min(grid) / 4)
    assert sides == set(sizes[low - 1 : high])


def test_the_same_seed_gives_every_row_the_same_side():
    maps = maps_of(0, 4, (8, 8))
    same = placed(SMMix(), maps, (8, 8), [3, 2, 1, 0], (32, 32), 5)
    assert len({row.lam for row in same.values()}) == 1
    each = SMMix().place({row: random.Random(row) for row in range(4)}, CleanMaps(maps, (8, 8), [3, 2, 1, 0], (32, 32)))
    assert len({row.lam for row in each.values()}) > 1


def test_smmix_pastes_the_partners_bright_spot_on_the_own_dark_one_and_not_the_other_way_round():
    maps = torch.full((2, 16), 0.5)
    maps[0, 5], maps[1, 10] = 9, -9  # row 0 is bright at (1, 1), row 1 dark at (2, 2)
    maps[0, 3], maps[1, 12] = -9, 9  # row 0 is dark at (0, 3), row 1 bright at (3, 0)
    rows = placed(SMMix(0.25, 0.25), maps, (4, 4), [1, 0], (8, 8))
    assert rows[0].box == (0, 6, 2, 8)
    assert rows[0].source_box == (6, 0, 8, 2)
    images, labels = a_batch(2, 8, 8)
    mixed = drawn([rows[0], rows[1]], (1, 0), 8, 8).apply(images, labels)
    assert torch.equal(mixed.images[0, :, 0:2, 6:8], images[1, :, 6:8, 0:2])
    called = square_mix(images, labels, torch.tensor([[0, 6], [4, 4]]), torch.tensor([[6, 0], [2, 2]]), 2)
    assert torch.equal(called.images, mixed.images)
    assert torch.equal(called.lam, mixed.lam)


def test_attentive_cutmix_keeps_the_own_bright_cells():
    maps = torch.zeros(2, 14 * 14)
    maps.view(2, 14, 14)[0, 2:4, 4:6] = 1  # cell (1, 2) of 7 x 7
    row = placed(AttentiveCutMix(k=1), maps, (14, 14), [1, 0], (28, 28))[0]
    kept = ~row.shape.mask(28, 28)
    assert kept.sum() == 16
    assert kept[4:8, 8:12].all()
    assert row.lam == pytest.approx(1 / 49)
    assert placed(AttentiveCutMix(), maps, (14, 14), [1, 0], (224, 224))[0].lam == pytest.approx(6 / 49)


def test_saliencymix_goes_round_the_partners_peak():
    maps = torch.zeros(3, 20 * 30)
    for row, (y, x) in enumerate([(3, 4), (10, 20), (15, 7)]):
        maps.view(3, 20, 30)[row, y, x] = 1
    rows = placed(SaliencyMix(float("inf")), maps, (20, 30), [2, 0, 1], (20, 30))
    half = int(20 * 0.5**0.5) // 2, int(30 * 0.5**0.5) // 2
    for row, (y, x) in enumerate([(15, 7), (3, 4), (10, 20)]):
        box = max(y - half[0], 0), max(x - half[1], 0), min(y + half[0], 20), min(x + half[1], 30)
        assert rows[row].box == box
    coarse = torch.zeros(1, 12)
    coarse[0, 7] = 0.01  # any scale: the map is divided by its maximum
    top, left, bottom, right = placed(SaliencyMix(float("inf")), coarse, (3, 4), [0], (30, 40))[0].box
    assert (top + bottom, left + right) != (0, 0)
    assert right == 40


# ---------------------------------------------------------------------------------------------------- refusals

IMAGES, LABELS = a_batch()
MAPS, TWO = torch.rand(3, 12), torch.tensor([[0, 0]] * 3)
BAD = torch.full((3, 12), float("nan"))
BETA = "draws from Beta(alpha, alpha), alpha above 0, not"
MASK = "a mask is (9, 14) or (3, 9, 14), or a grid that divides these sides, not"
REFUSED = {
    **{
        kind.__name__: (lambda kind=kind: kind(alpha=0), f"{kind.__name__} {BETA} 0")
        for kind in (CutMix, FMix, GridCutMix, MaskMix, Mixup, SaliencyMix, SnapMix)
    },
    "cell 0": (lambda: MaskMix(cell=0), "cell is a side in whole pixels, at least 1, not 0"),
    "half a cell": (lambda: GridCutMix(cell=2.5), "cell is a side in whole pixels, at least 1, not 2.5"),
    "tokens": (lambda: TokenMix(cell=-1), "cell is a side in whole pixels, at least 1, not -1"),
    "token share": (lambda: TokenMix(lam=1.5), "lam is a share in [0, 1], not 1.5"),
    "token minimum": (lambda: TokenMix(minimum=-1), "minimum is a number of tokens, at least 0, not -1"),
    "token kind": (lambda: TokenMix(kind="line"), "kind must be 'block' or 'random', not 'line'"),
    "decay": (lambda: FMix(decay=-1), "decay is a power, at least 0, not -1"),
    "soft": (lambda: FMix(soft=2), "soft is a share in [0, 1], not 2"),
    "range": (lambda: ResizeMix(0.8, 0.1), "low and high must be two rising fractions in [0, 1], not 0.8 and 0.1"),
    "square range": (lambda: SMMix(0.2, 1.1), "low and high must be two rising fractions in [0, 1], not 0.2 and 1.1"),
    "way": (
        lambda: ResizeMix(interpolation="bicubic"),
        "interpolation of ResizeMix is 'nearest' or 'bilinear', not 'bicubic'",
    ),
    "cells": (lambda: AttentiveCutMix(cells=0), "cells is a number of cells along a side, at least 1, not 0"),
    "k": (lambda: AttentiveCutMix(k=50), "k must lie in [0, 49] cells, not 50"),
    "mask that does not divide": (lambda: paste_mask(IMAGES, LABELS, torch.ones(2, 7)), f"{MASK} (2, 7)"),
    "mask turned": (lambda: paste_mask(IMAGES, LABELS, torch.ones(14, 9)), f"{MASK} (14, 9)"),
    "mask of another batch": (lambda: paste_mask(IMAGES, LABELS, torch.ones(2, 9, 14)), f"{MASK} (2, 9, 14)"),
    "mask of a row": (lambda: paste_mask(IMAGES, LABELS, torch.ones(14)), f"{MASK} (14,)"),
    "mask without cells": (lambda: paste_mask(IMAGES, LABELS, torch.ones(0, 7)), f"{MASK} (0, 7)"),
    "mask of integers": (
        lambda: paste_mask(IMAGES, LABELS, torch.ones(9, 14, dtype=torch.int64)),
        "a mask is bool, or float in [0, 1], not torch.int64",
    ),
    "mask above 1": (
        lambda: paste_mask(IMAGES, LABELS, torch.full((9, 14), 1.5)),
        "a mask is bool, or float in [0, 1], not from 1.5 to 1.5",
    ),
    "mask of nan": (
        lambda: paste_mask(IMAGES, LABELS, torch.full((9, 14), float("nan"))),
        "a mask is bool, or float in [0, 1], not from nan to nan",
    ),
    "cells of another grid": (
        lambda: cell_mask(torch.ones(2, 3, 3), 4, 9, 14),
        "cells of 4 pixels in an image of 9 x 14 are (B, 3, 4), not (2, 3, 3)",
    ),
    "normals": (lambda: fourier_image(torch.ones(4, 2, 2), 4, 6), "normals must be (4, 4, 2), not (4, 2, 2)"),
    "threshold": (lambda: threshold_mask(MAPS, 1.2), "lam and soft are shares in [0, 1], not 1.2 and 0.0"),
    "rounding": (
        lambda: threshold_mask(MAPS, 0.5, rounding="up"),
        "rounding must be 'ceil' or 'floor', not 'up'",
    ),
    "scale too small": (
        lambda: resizemix(IMAGES, LABELS, (0, 0, 3, 7), scale=0.4),
        "scale must lie in [0.5, 1] for a box of 3 x 7 in 9 x 14, not 0.4",
    ),
    "scale above 1": (
        lambda: resizemix(IMAGES, LABELS, (0, 0, 3, 7), scale=1.1),
        "scale must lie in [0.5, 1] for a box of 3 x 7 in 9 x 14, not 1.1",
    ),
    "scale of a bilinear one": (
        lambda: resizemix(IMAGES, LABELS, (0, 0, 3, 7), None, "bilinear", scale=0.5),
        "scale belongs to interpolation 'nearest'; bilinear resizes by the ratio of the sizes",
    ),
    "two boxes": (
        lambda: snapmix(IMAGES, LABELS, [(0, 0, 3, 7)] * 2, (0, 0, 3, 7)),
        "one box for the batch or one per row (3), not 2",
    ),
    "square in rows": (
        lambda: square_mix(IMAGES, LABELS, TWO[:2], TWO, 2),
        "paste_at and taken_from must be (3, 2) pixels, not (2, 2)",
    ),
    "square outside": (
        lambda: square_mix(IMAGES, LABELS, TWO + 8, TWO, 2),
        "box (top 8, left 8, bottom 10, right 10) does not lie in an image of height 9 and width 14",
    ),
    "square of less than nothing": (
        lambda: square_mix(IMAGES, LABELS, TWO, TWO, -1),
        "side is a number of pixels, not -1",
    ),
    "square larger than the grid": (
        lambda: max_min_square(MAPS, LABELS, (3, 4), 4),
        "side must lie in [1, 3] patches of a grid of 3 x 4, not 4",
    ),
    "more cells than there are": (lambda: top_cells(MAPS, (3, 4), 13), "k must lie in [0, 12] cells, not 13"),
    "maps of another grid": (
        lambda: top_cells(MAPS, (4, 4), 3),
        "maps of a grid of 4 x 4 must be (B, 16), not (3, 12)",
    ),
    "saliency": (lambda: saliency_box(MAPS, 0.5), "saliency must be (B, H, W), not (3, 12)"),
    "saliency's lam": (
        lambda: saliency_box(MAPS[None], [0.5, 0.5]),
        "lam is one weight in [0, 1], or one per row (1), not [0.5, 0.5]",
    ),
    "saliency's lam above 1": (
        lambda: saliency_box(MAPS[None], 1.5),
        "lam is one weight in [0, 1], or one per row (1), not 1.5",
    ),
    **{
        f"{name} of another batch": (
            lambda method=method: placed(method, MAPS, (3, 4), [1, 0], (9, 14)),
            "maps of a grid of 3 x 4 must be (2, 12), not (3, 12)",
        )
        for name, method in GUIDED.items()
    },
    **{
        f"{name} of nan": (
            lambda method=method: placed(method, BAD, (3, 4), [2, 1, 0], (9, 14)),
            "a map of the clean images holds NaN or infinity: nothing can be placed by it",
        )
        for name, method in GUIDED.items()
    },
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        call()
    assert str(error.value) == text


def test_methods_in_one_batch_row_by_row():
    """Shapes, boxes and resized boxes beside each other."""
    methods = [MaskMix(), TokenMix(), FMix(soft=0.1), ResizeMix(), CutMix(), GridCutMix(), Mixup()]
    mixer = Mixer(methods=methods, mode="elem", generator=torch.Generator().manual_seed(0))
    draw = mixer.draw(33, 32, 40)
    images, labels = a_batch(33, 32, 40)
    mixed = draw.apply(images, labels)
    assert {type(row.shape) for row in draw.rows} == {Cells, FourierShape, type(None)}
    assert torch.equal(mixed.images, mixed.apply(images))
