import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from torch import nn
from torch.nn import functional as F

from transmix.attention import AttentionError
from transmix.data.dataset import DataError, ImageData, Split
from transmix.distributed import World
from transmix.evaluation import attention_quality as quality
from transmix.evaluation.attention_quality import keep_mass, overlap
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.suites import Settings, load_suite
from transmix.labels.patches import mask_on_patches
from transmix.models.loaded import LoadedModel, Preprocessing

HEIGHT, WIDTH, PATCH = 16, 24, 4
GRID = 4, 6


class Looks(nn.Module):
    """Attention by which each head looks at bright patches, or at dark ones where its sharpness is below 0."""

    def __init__(self, sharpness):
        super().__init__()
        self.sharpness = torch.tensor(sharpness)

    def forward(self, patches):
        key = F.pad(patches.flatten(1)[:, None] * self.sharpness[:, None], (1, 0), value=-1e4)[..., None]
        return F.scaled_dot_product_attention(torch.ones_like(key), key, key, scale=1.0)[:, :, 0].mean(1)


class LooksAtBright(nn.Module):
    """A model of one layer, of which it is known where its class token looks."""

    def __init__(self, *sharpness):
        super().__init__()
        self.global_pool, self.num_prefix_tokens, self.cls_token = "token", 1, nn.Parameter(torch.zeros(1))
        self.patch_embed = nn.Conv2d(3, 1, PATCH, PATCH)
        nn.init.constant_(self.patch_embed.weight, 1 / (3 * PATCH**2))
        nn.init.zeros_(self.patch_embed.bias)
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": Looks(sharpness)})])

    def forward(self, images):
        return self.blocks[0]["attn"](self.patch_embed(images)).expand(-1, 2)


def bright_data(samples=13, aligned=True, empty=()):
    """Make images that are white on the foreground, a rectangle, and black elsewhere."""
    rng, masks = np.random.default_rng(4), np.zeros((samples, HEIGHT, WIDTH), dtype=bool)
    step = PATCH if aligned else 1
    for index in set(range(samples)) - set(empty):
        height, width = rng.integers(1, 3) * PATCH, rng.integers(1, 4) * PATCH
        top, left = rng.integers(0, (HEIGHT - height) // step + 1), rng.integers(0, (WIDTH - width) // step + 1)
        masks[index, top * step : top * step + height, left * step : left * step + width] = True
    images = np.repeat(masks[..., None].astype(np.uint8) * 255, 3, axis=-1)
    split = Split(images, np.arange(samples) % 2, masks)
    return ImageData("bright", ("a", "b"), split, split)


def open_model(model, world=None, batch_size=5):
    world = world or World(0, 1, 1, torch.device("cpu"))
    half = (0.5,) * 3
    loaded = LoadedModel("random", model.eval(), ("a", "b"), Preprocessing((HEIGHT, WIDTH), 1.0, half, half))
    return Evaluator(loaded, world, batch_size, 0)


def measure(model, data, **options):
    return dict(load_suite("attention-quality")(open_model(model, **options), data, Settings()))


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any), st.sampled_from([0.3, 0.6, 0.8]))
def test_kept_patches_are_the_largest_that_hold_the_mass(values, mass):
    total, kept = sum(values), [False] * len(values)
    ascending = sorted(range(len(values)), key=lambda index: values[index])
    for rank, index in enumerate(ascending):
        lighter = sum(values[other] for other in ascending[: rank + 1]) / total
        assume(abs(lighter - (1 - mass)) > 1e-4)  # on the very edge rounding decides
        kept[index] = lighter > 1 - mass
    ours = keep_mass(torch.tensor(values).float() * 0.01, mass)
    assert sorted(v for v, k in zip(values, ours, strict=True) if k) == sorted(
        v for v, k in zip(values, kept, strict=True) if k
    )
    held = sum(v for v, k in zip(values, ours, strict=True) if k)
    assert held / total >= mass - 1e-6


def test_the_jaccard_score_is_scikit_learns_over_the_sure_pixels():
    rng = np.random.default_rng(0)
    found, masks = rng.random((5, 7, 9)) < 0.4, rng.integers(0, 3, (5, 7, 9)).astype(np.uint8)
    ours = quality.jaccard(torch.from_numpy(found), torch.from_numpy(masks))
    for one, mask, score in zip(found, masks, ours, strict=True):
        sure = mask != 2
        assert score.item() == pytest.approx(jaccard_score(mask[sure] == 1, one[sure]), abs=1e-12)
    assert (ours - quality.jaccard(torch.from_numpy(found), torch.from_numpy(masks).roll(1, 1))).abs().min() > 0.001


def test_a_map_comes_to_pixels_patch_by_patch():
    patches = torch.arange(2 * 24).view(2, 24)
    pixels = quality.on_pixels(patches, GRID, (HEIGHT, WIDTH))
    for image in range(2):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                assert pixels[image, row, column] == image * 24 + row // PATCH * 6 + column // PATCH


@settings(max_examples=50)
@given(st.lists(st.integers(0, 11), min_size=8, max_size=8))
def test_two_boxes_overlap_by_the_pixels_they_share(sides):
    boxes = [(min(a, b), min(c, d), max(a, b), max(c, d)) for a, b, c, d in (sides[:4], sides[4:])]
    covered = [{(r, c) for r in range(box[0], box[2]) for c in range(box[1], box[3])} for box in boxes]
    union = covered[0] | covered[1]
    assert overlap(*boxes) == pytest.approx(len(covered[0] & covered[1]) / len(union) if union else 0)


def test_the_box_is_around_the_largest_part():
    patches = np.zeros(GRID, dtype=bool)
    patches[0, 0] = patches[2, 3] = patches[3, 4] = True  # the last two meet at a corner
    assert quality.largest_box(patches, (HEIGHT, WIDTH)) == (8, 12, 16, 20)
    patches[1, 0] = patches[1, 1] = True
    assert quality.largest_box(patches, (HEIGHT, WIDTH)) == (0, 0, 8, 8)
    assert quality.largest_box(patches, (HEIGHT + 8, WIDTH)) == (0, 0, 12, 8)
    assert quality.largest_box(np.zeros(GRID, dtype=bool), (HEIGHT, WIDTH)) == (0, 0, 0, 0)


def parts_of(cells):
    """Flood a set of (row, column) into parts that touch, at corners too."""
    left, parts = set(cells), []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


def box_pixels(cells):
    """All pixels of the box around some cells of the grid."""
    rows, columns = [row for row, _ in cells], [column for _, column in cells]
    down = range(min(rows) * PATCH, (max(rows) + 1) * PATCH)
    return {(y, x) for y in down for x in range(min(columns) * PATCH, (max(columns) + 1) * PATCH)}


def over(one, other):
    return len(one & other) / len(one | other)


def scores_by_loops(image, mask, sharpness):
    """What the suite says of one image, written out: patches are cells, pixels are pairs, maps are dicts."""
    cells = [(row, column) for row in range(GRID[0]) for column in range(GRID[1])]
    inside = {
        cell: [(y, x) for y in range(HEIGHT) for x in range(WIDTH) if (y // PATCH, x // PATCH) == cell]
        for cell in cells
    }
    bright = {cell: sum(image[y, x, 0] / 255 * 2 - 1 for y, x in inside[cell]) / PATCH**2 for cell in cells}
    weights = [{cell: np.exp(sharp * bright[cell]) for cell in cells} for sharp in sharpness]
    heads = [{cell: one[cell] / sum(one.values()) for cell in cells} for one in weights]
    attention = {cell: sum(head[cell] for head in heads) / len(heads) for cell in cells}
    target = {(y, x) for y in range(HEIGHT) for x in range(WIDTH) if mask[y, x]}
    share = {cell: len(target.intersection(inside[cell])) / PATCH**2 for cell in cells}
    kept, mass = set(), 0.0
    for cell in sorted(cells, key=lambda cell: attention[cell], reverse=True):
        if mass < 0.6 - 1e-9:
            kept.add(cell)
            mass += attention[cell]
    target_box = {
        (y, x)
        for y in range(min(y for y, _ in target), max(y for y, _ in target) + 1)
        for x in range(min(x for _, x in target), max(x for _, x in target) + 1)
    }
    low, high = min(attention.values()), max(attention.values())
    boxes = []
    for step in range(20):
        above = {cell for cell in cells if (attention[cell] - low) / (high - low) > step / 20}
        boxes.append(over(box_pixels(max(parts_of(above), key=len)), target_box) >= 0.5)
    best = max(cells, key=lambda cell: attention[cell])
    return {
        "jaccard": over({pixel for cell in kept for pixel in inside[cell]}, target),
        "mass_on_foreground": sum(attention[cell] * share[cell] for cell in cells),
        "pointing": share[best] > 0,
        "pointing_by_chance": sum(share[cell] > 0 for cell in cells) / len(cells),
        "localisation": over(box_pixels(max(parts_of(kept), key=len)), target_box) >= 0.5,
        "boxes": boxes,
    }


def grainy_data(samples=40):
    """Images brighter on the foreground, two rectangles off the grid, but with grain: no two patches are alike."""
    rng, masks = np.random.default_rng(9), np.zeros((samples, HEIGHT, WIDTH), dtype=bool)
    for mask in masks:
        for _ in range(2):
            top, left, height, width = rng.integers((0, 0, 3, 3), (11, 17, 9, 11))
            mask[top : top + height, left : left + width] = True
    patches = np.kron(rng.integers(0, 120, (samples, *GRID)), np.ones((1, PATCH, PATCH)))
    grey = rng.integers(0, 60, (samples, HEIGHT, WIDTH)) + patches + 60 * masks
    images = np.repeat(grey[..., None].astype(np.uint8), 3, axis=-1)
    split = Split(images, np.arange(samples) % 2, masks)
    return ImageData("grainy", ("a", "b"), split, split)


def test_every_score_is_that_of_explicit_loops():
    sharpness, data = (4.0, 2.0, -0.5), grainy_data()
    found = measure(LooksAtBright(*sharpness), data)
    each = [scores_by_loops(*pair, sharpness) for pair in zip(data.val.images, data.val.masks, strict=True)]
    for name in set(each[0]) - {"boxes"}:
        expected = np.mean([one[name] for one in each])
        assert found[name] == pytest.approx(expected, abs=1e-5), name
        assert 0.02 < expected < 0.98, name  # else much else would give the same
    of_cuts = np.mean([one["boxes"] for one in each], axis=0)
    assert found["localisation_best_cut"] == pytest.approx(of_cuts.max(), abs=1e-6)
    assert found["best_cut"] == quality.CUTS[int(of_cuts.argmax())]
    assert len(set(of_cuts)) > 3


def looks_by_loops(images, masks, sharpness):
    """Position's share of the variance and own over other, written out over images and cells."""
    rows, columns = GRID
    maps, shares = [], []
    for image, mask in zip(images, masks, strict=True):
        heads = np.zeros((len(sharpness), rows, columns))
        share = np.zeros(GRID)
        for row in range(rows):
            for column in range(columns):
                patch = np.s_[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                share[row, column] = mask[patch].mean()
                for head, sharp in enumerate(sharpness):
                    heads[head, row, column] = np.exp(sharp * (image[patch].mean() / 255 * 2 - 1))
        maps.append(np.mean([head / head.sum() for head in heads], axis=0))
        shares.append(share)
    left = total = 0.0
    for one in maps:
        for row in range(rows):
            for column in range(columns):
                mean_here = np.mean([other[row, column] for other in maps])
                left += (one[row, column] - mean_here) ** 2
                total += (one[row, column] - 1 / (rows * columns)) ** 2
    own = np.mean([(one * share).sum() for one, share in zip(maps, shares, strict=True)])
    others = [
        (other * share).sum()
        for mine, share in enumerate(shares)
        for theirs, other in enumerate(maps)
        if mine != theirs
    ]
    return 1 - left / total, own / np.mean(others)


def test_positions_share_and_own_over_other_are_those_of_explicit_loops():
    sharpness, data = (4.0, 2.0, -0.5), grainy_data(9)
    data.val.images[:, :PATCH, 2 * PATCH : 4 * PATCH] //= 2  # darker there in every image: position explains some
    found = measure(LooksAtBright(*sharpness), data)
    by_position, own_over_other = looks_by_loops(data.val.images, data.val.masks, sharpness)
    assert found["explained_by_position"] == pytest.approx(by_position, abs=1e-6)
    assert found["own_over_other"] == pytest.approx(own_over_other, abs=1e-6)
    assert 0.1 < by_position < 0.9
    assert own_over_other > 1.2


@pytest.mark.parametrize("sharpness", [0.0, 3.0])
def test_attention_that_ignores_the_image_is_position_alone_and_on_no_object_more_than_on_anothers(sharpness):
    data = grainy_data(9)
    data.val.images[:] = data.val.images[0]  # every image the same, each with its own mask
    found = measure(LooksAtBright(sharpness), data)
    assert found["explained_by_position"] == pytest.approx(1.0, abs=1e-9)
    assert found["own_over_other"] == pytest.approx(1.0, abs=1e-9)


def test_looking_at_the_object_alone_is_far_from_both():
    found = measure(LooksAtBright(6.0), bright_data())
    assert found["explained_by_position"] < 0.4
    assert found["own_over_other"] > 2


def test_looking_away_is_less_on_the_own_object_than_on_anothers():
    assert measure(LooksAtBright(-2.0), bright_data())["own_over_other"] < 1


def test_objects_all_in_one_place_are_seen_without_looking():
    data = grainy_data(9)
    data.val.masks[:] = data.val.masks[0]
    shares, maps = torch.rand(9, 24).double(), torch.rand(9, 24).double()
    maps, shares = maps / maps.sum(1, keepdim=True), shares[:1].expand(9, -1)
    assert quality.own_over_other(maps, shares) == pytest.approx(1.0, abs=1e-9)
    assert quality.explained_by_position(maps) < 0.5


def test_one_image_has_no_other():
    found = measure(LooksAtBright(3.0), bright_data(1))
    assert "own_over_other" not in found
    assert found["explained_by_position"] == 1


MUTATIONS = {
    "less than half an overlap": lambda patch: patch.setattr(
        quality, "overlap", lambda *boxes: min(overlap(*boxes) + 0.15, 1.0)
    ),
    "one cut": lambda patch: patch.setattr(quality, "CUTS", (0.9,)),
    "less mass": lambda patch: patch.setattr(quality, "keep_mass", lambda maps: keep_mass(maps, 0.4)),
    "all parts": lambda patch: patch.setattr(
        quality, "largest_box", lambda found, size: tuple(PATCH * side for side in quality.box_around(found))
    ),
    "upper left pixels": lambda patch: patch.setattr(
        quality, "mask_on_patches", lambda masks, grid, how: mask_on_patches(masks, grid, "nearest")
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_another_protocol_would_be_noticed(name, monkeypatch):
    ours = measure(LooksAtBright(4.0, 2.0, -0.5), grainy_data())
    MUTATIONS[name](monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(measure(LooksAtBright(4.0, 2.0, -0.5), grainy_data()), ours)


def test_a_model_that_looks_at_the_foreground_has_full_marks():
    found = measure(LooksAtBright(6.0, 6.0), bright_data())
    assert found["images"] == 13
    assert found["left_out"] == 0
    for name in ("mass_on_foreground", "pointing", "localisation_best_cut"):
        assert found[name] == pytest.approx(1, abs=1e-3), name
    assert 0.5 < found["jaccard"] < 1  # 60 % of an even map over the foreground
    for name in ("jaccard_whole_image", "area_of_foreground", "pointing_by_chance", "localisation_whole_image"):
        assert found[name] < 0.6, name


def test_a_model_that_looks_away_has_none():
    found = measure(LooksAtBright(-6.0), bright_data())
    assert found["jaccard"] == found["pointing"] == 0
    assert found["mass_on_foreground"] < 0.001


def test_an_even_map_has_the_share_of_the_area():
    found = measure(LooksAtBright(0.0), bright_data(aligned=False))
    assert found["mass_on_foreground"] == pytest.approx(found["area_of_foreground"], abs=1e-6)
    assert found["area_of_foreground"] == pytest.approx(bright_data(aligned=False).val.masks.mean(), abs=1e-6)
    assert found["jaccard_whole_image"] == pytest.approx(found["area_of_foreground"], abs=1e-6)


def test_each_head_is_scored_alone():
    found = measure(LooksAtBright(6.0, -6.0, 0.0), bright_data())
    alone = [measure(LooksAtBright(sharp), bright_data())["jaccard"] for sharp in (6.0, -6.0, 0.0)]
    assert found["jaccard_heads"] == pytest.approx(alone, abs=1e-9)
    assert found["jaccard_best_head"] == max(alone)
    assert found["jaccard_best_head_of_each_image"] >= max(alone)


def test_a_mask_that_is_shifted_by_a_row_scores_otherwise():
    data = bright_data()
    shifted = Split(data.val.images, data.val.labels, np.roll(data.val.masks, 1, axis=1))
    ours, theirs = (
        measure(LooksAtBright(6.0), ImageData("bright", ("a", "b"), split, split)) for split in (data.val, shifted)
    )
    assert theirs["jaccard"] < ours["jaccard"] - 0.01
    assert theirs["mass_on_foreground"] < ours["mass_on_foreground"] - 0.05


def test_the_size_of_batches_changes_nothing():
    data = bright_data(aligned=False)
    model = LooksAtBright(3.0, -1.0)
    assert_same(measure(model, data, batch_size=1), measure(model, data, batch_size=50))


def test_images_without_foreground_are_left_out():
    found = measure(LooksAtBright(6.0), bright_data(empty=(2, 5)))
    assert (found["images"], found["left_out"]) == (11, 2)
    with pytest.raises(DataError, match=r"^bright: no validation image has foreground inside the evaluation crop$"):
        measure(LooksAtBright(6.0), bright_data(3, empty=(0, 1, 2)))


def test_it_is_refused_before_anything_is_measured(noise, small_vit, opened):
    with pytest.raises(DataError, match=r"^noise: no foreground masks"):
        quality.attention_quality(opened(), noise(), Settings())
    with pytest.raises(AttentionError, match="averages its class token away"):
        quality.attention_quality(opened(small_vit(global_pool="avg")), bright_data(), Settings())


def test_a_vit_of_timm_is_read_head_by_head(opened, masked):
    found = dict(quality.attention_quality(opened(), masked(), Settings()))
    assert len(found["jaccard_heads"]) == 2
    assert 0 < found["jaccard"] < 1


def test_half_precision_with_sharp_maps_has_heads_for_all_images_or_for_none(opened, small_vit, masked):
    """Batches of one, of which rounding makes some heads' mean another map than the row that was read."""
    model = small_vit()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight *= 40
    one = opened(model, amp_dtype=torch.bfloat16, batch_size=1)
    found = dict(quality.attention_quality(one, masked(30), Settings()))
    assert found["images"] == 30
    assert len(found.get("jaccard_heads", [1, 2])) == 2


def test_heads_of_another_layer_are_told_apart():
    heads = torch.rand(5, 3, 196).softmax(-1)  # as flat as a real map: 1 / 196 each, give or take
    assert quality.heads_of(heads.mean(1), heads).all()
    assert not quality.heads_of(torch.rand(5, 196).softmax(-1), heads).any()
    assert not quality.heads_of(heads.mean(1), heads[:, :0]).any()


@pytest.mark.parametrize("samples", [1, 13])
def test_two_processes_give_what_one_gives(monkeypatch, samples):
    """With one image the second process has none."""
    model, data, sent = LooksAtBright(3.0, -1.0), bright_data(samples), []

    def exchange(mine, world):
        sent.append(mine)
        return sent

    monkeypatch.setattr(quality, "gather", exchange)
    shares = [measure(model, data, world=World(rank, 2, 2, torch.device("cpu"))) for rank in range(2)]
    monkeypatch.undo()
    assert [len(theirs.get("index", ())) for theirs in sent] == [samples - samples // 2, samples // 2]
    assert_same(shares[1], measure(model, data))
    if samples > 1:
        assert shares[0]["jaccard"] != shares[1]["jaccard"]
