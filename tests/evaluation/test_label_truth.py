import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from torch import nn
from torch.nn import functional as F

from transmix.attention import AttentionError
from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.data.masks import UNSURE, open_masks
from transmix.data.settings import Augmentation
from transmix.distributed import World
from transmix.evaluation import label_truth as truth
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.label_pairs import PER_BOX, half_of, image_halves
from transmix.evaluation.label_scores import (
    agreement,
    ghosts,
    image_specific,
    judged,
    mean_interval,
    rank_correlation,
    scores,
)
from transmix.evaluation.suites import Settings, load_suite
from transmix.mixing import Mixer
from transmix.mixing.box import box_area
from transmix.models.loaded import LoadedModel, Preprocessing
from transmix.recipes import load_recipe

HEIGHT, WIDTH, PATCH = 16, 24, 4
NULL = ("area", "line", "centre", "mean_map")  # look at no image
SIZE = HEIGHT, WIDTH


class LooksAtBright(nn.Module):
    """A model of one layer whose class token looks at bright patches: exp(sharpness * brightness), brightness -1..1."""

    def __init__(self, sharpness=6.0):
        super().__init__()
        self.global_pool, self.num_prefix_tokens, self.cls_token = "token", 1, nn.Parameter(torch.zeros(1))
        self.patch_embed = nn.Conv2d(3, 1, PATCH, PATCH)
        nn.init.constant_(self.patch_embed.weight, sharpness / (3 * PATCH**2))
        nn.init.zeros_(self.patch_embed.bias)
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": Looks()})])

    def forward(self, images):
        return self.blocks[0]["attn"](self.patch_embed(images)).expand(-1, 3)


class Looks(nn.Module):
    def forward(self, patches):
        key = F.pad(patches.flatten(1)[:, None], (1, 0), value=-1e4)[..., None]
        return F.scaled_dot_product_attention(torch.ones_like(key), key, key, scale=1.0)[:, 0, 0]


def bright_data(samples=11, empty=()):
    """Make images that are white on the foreground, a rectangle of whole patches, and black elsewhere."""
    rng, masks = np.random.default_rng(4), np.zeros((samples, *SIZE), dtype=bool)
    for index in set(range(samples)) - set(empty):
        height, width = rng.integers(1, 4), rng.integers(1, 5)
        top, left = rng.integers(0, 4 - height + 1), rng.integers(0, 6 - width + 1)
        rows, columns = slice(top * PATCH, (top + height) * PATCH), slice(left * PATCH, (left + width) * PATCH)
        masks[index, rows, columns] = True
    images = np.repeat(masks[..., None].astype(np.uint8) * 255, 3, axis=-1)
    split = Split(images, np.arange(samples) % 3, masks)
    return ImageData("bright", ("a", "b", "c"), split, split)


def open_model(model=None, world=None, batch_size=64, bad=None):
    model, world = model or LooksAtBright(), world or World(0, 1, 1, torch.device("cpu"))
    half = (0.5,) * 3
    loaded = LoadedModel("random", model.eval(), ("a", "b", "c"), Preprocessing(SIZE, 1.0, half, half))
    return Evaluator(loaded, world, batch_size, 0, bad=bad)


def weigh(data, pairs, rules=truth.RULES, **options):
    return truth.weigh(open_model(**options), data.val, open_masks(data), pairs, rules)


def draw(data, count=60, seed=0):
    return truth.draw_pairs(count, data.val.labels, SIZE, seed)


def on_patches(pairs):
    """Move every box to whole patches, at least one."""
    aligned = []
    for own, partner, (top, left, bottom, right) in pairs:
        start = top // PATCH * PATCH, left // PATCH * PATCH
        aligned.append(truth.Pair(own, partner, (*start, -(-bottom // PATCH) * PATCH, -(-right // PATCH) * PATCH)))
    return aligned


def errors(weighed, by="pixel"):
    true = truth.true_lam(weighed.seen, weighed.whole, by)
    return {rule: float(np.nanmean(np.abs(lam - true))) for rule, lam in weighed.lam.items()}


def test_pairs_follow_from_the_seed_and_their_number():
    labels = bright_data().val.labels
    pairs = truth.draw_pairs(40, labels, SIZE, 5)
    assert pairs[:7] == truth.draw_pairs(7, labels, SIZE, 5)
    assert pairs != truth.draw_pairs(40, labels, SIZE, 6)
    assert all(box_area(pair.box) for pair in pairs)
    assert all(labels[pair.own] != labels[pair.partner] for pair in pairs)
    assert {own == partner for own, partner, _ in truth.draw_pairs(40, [1, 1, 1], SIZE, 5)} == {False}
    with pytest.raises(DataError, match=r"^a pair needs two images, there is 1$"):
        truth.draw_pairs(1, [0], SIZE, 0)


def test_boxes_are_those_of_training():
    ours = [box_area(pair.box) for pair in truth.draw_pairs(1500, [0, 1, 2], SIZE, 0)]
    mixer = Mixer(mixup_alpha=0, mode="elem", generator=torch.Generator().manual_seed(0))
    theirs = [box_area(box) for box in mixer.draw(1500, *SIZE).boxes if box and box_area(box)]
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 0.01
    halved = [area / 2 for area in theirs]
    assert scipy.stats.ks_2samp(ours, halved).pvalue < 1e-6


def test_global_generators_are_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    draw(bright_data())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


counts = st.tuples(st.integers(0, 30), st.integers(0, 30))


@given(counts, counts)
def test_the_truth_is_the_share_of_what_is_seen(seen, hidden):
    whole = seen[0] + hidden[0], seen[1] + hidden[1]
    by_pixel = seen[0] / sum(seen) if sum(seen) else math.nan
    shown = [s / w if w else math.nan for s, w in zip(seen, whole, strict=True)]
    by_object = shown[0] / sum(shown) if sum(shown) else math.nan
    for by, expected in (("pixel", by_pixel), ("object", by_object)):
        ours = truth.true_lam(np.array([seen]), np.array([whole]), by)
        assert ours[0] == pytest.approx(expected, nan_ok=True)
        exchanged = truth.true_lam(np.array([seen[::-1]]), np.array([whole[::-1]]), by)
        assert ours[0] == pytest.approx(1 - exchanged[0], nan_ok=True)
    equally_large = truth.true_lam(np.array([seen]), np.array([[60, 60]]))
    assert equally_large[0] == pytest.approx(by_pixel, nan_ok=True)


def test_a_truth_by_something_else_is_refused():
    with pytest.raises(ValueError, match="by must be 'object' or 'pixel', not 'area'"):
        truth.true_lam(np.ones((1, 2)), np.ones((1, 2)), "area")


def test_foreground_area_and_attention_are_those_of_explicit_loops():
    data, sharpness = bright_data(), 1.5
    pairs = draw(data, 25)
    found = weigh(data, pairs, model=LooksAtBright(sharpness))
    assert found.pairs.tolist() == list(range(25))
    for number, (own, partner, (top, left, bottom, right)) in enumerate(pairs):
        seen, area, inside, outside = [0, 0], 0, 0.0, 0.0
        for row in range(HEIGHT):
            for column in range(WIDTH):
                in_box = top <= row < bottom and left <= column < right
                area += in_box
                seen[in_box] += int(data.val.masks[partner if in_box else own, row, column])
        for row in range(0, HEIGHT, PATCH):
            for column in range(0, WIDTH, PATCH):
                light = np.zeros((PATCH, PATCH))
                for r in range(PATCH):
                    for c in range(PATCH):
                        in_box = top <= row + r < bottom and left <= column + c < right
                        light[r, c] = data.val.masks[partner if in_box else own, row + r, column + c]
                attention = math.exp(sharpness * (2 * light.mean() - 1))
                if top <= row < bottom and left <= column < right:  # its upper left pixel
                    inside += attention
                else:
                    outside += attention
        by_area, by_attention = 1 - area / (HEIGHT * WIDTH), outside / (inside + outside)
        assert found.seen[number].tolist() == seen
        assert found.whole[number].tolist() == [data.val.masks[own].sum(), data.val.masks[partner].sum()]
        assert found.lam_area[number] == pytest.approx(by_area, abs=1e-6)
        assert found.lam["area"][number] == pytest.approx(by_area, abs=1e-6)
        assert found.lam["attention"][number] == pytest.approx(by_attention, abs=1e-5)
        assert found.lam["mean"][number] == pytest.approx((by_attention + by_area) / 2, abs=1e-5)


def test_attention_on_the_foreground_alone_gives_the_truth_by_pixel():
    data = bright_data()
    weighed = weigh(data, on_patches(draw(data)), model=LooksAtBright(8.0))
    found = errors(weighed)
    assert found["attention"] == pytest.approx(0, abs=1e-4)
    assert found["attention_fraction"] == pytest.approx(0, abs=1e-4)
    assert found["area"] > 0.05
    assert found["mean"] == pytest.approx(found["area"] / 2, abs=1e-3)
    looks_away = errors(weigh(data, on_patches(draw(data)), model=LooksAtBright(-8.0)))
    assert looks_away["attention"] > found["area"]


def test_a_weight_of_the_wrong_image_is_far_from_the_truth():
    data = bright_data()

    def swapped(mixed, evidence):
        return replace(mixed, lam=1 - truth.RULES["attention"](mixed, evidence).lam)

    swapped.needs = ("attention",)
    found = errors(weigh(data, draw(data), {"attention": truth.RULES["attention"], "swapped": swapped}))
    assert found["attention"] < 0.2 < 0.4 < found["swapped"]


def test_a_mask_that_is_shifted_by_a_row_is_another_truth():
    data = bright_data()
    pairs = on_patches(draw(data))
    moved = replace(data.val, masks=np.roll(data.val.masks, 1, axis=1))
    model = LooksAtBright(8.0)
    ours, theirs = (
        errors(truth.weigh(open_model(model), split, open_masks(replace(data, val=split)), pairs))
        for split in (data.val, moved)
    )
    assert theirs["attention"] > ours["attention"] + 0.005


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(0, 10))
def test_a_box_over_the_whole_image_leaves_nothing_of_the_own_one(own, partner):
    found = weigh(bright_data(), [truth.Pair(own, partner, (0, 0, *SIZE))])
    assert found.lam_area.tolist() == [0]
    assert truth.true_lam(found.seen, found.whole).tolist() == [0]
    assert all(lam.tolist() == [0] for lam in found.lam.values())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, HEIGHT))
def test_exchanging_the_images_and_the_sides_of_a_border_exchanges_the_weights(own, partner, border):
    """The rows above a border from B, those below from A: the same mixed image, made the other way round."""
    data = bright_data()
    above, below = (0, 0, border, WIDTH), (border, 0, HEIGHT, WIDTH)
    one = weigh(data, [truth.Pair(own, partner, above)])
    other = weigh(data, [truth.Pair(partner, own, below)])
    for by in ("pixel", "object"):
        ours, theirs = (truth.true_lam(found.seen, found.whole, by) for found in (one, other))
        assert ours == pytest.approx(1 - theirs, nan_ok=True)
    for rule in ("area", "attention_fraction", "mean_fraction"):
        assert one.lam[rule] == pytest.approx(1 - other.lam[rule], abs=1e-5)


def test_the_size_of_batches_changes_nothing():
    data = bright_data()
    one, many = (weigh(data, draw(data), batch_size=size) for size in (1, 7))
    for rule, lam in one.lam.items():
        assert many.lam[rule] == pytest.approx(lam, abs=1e-6)
    assert np.array_equal(one.seen, many.seen)


@pytest.mark.parametrize("count", [1, 20])
def test_two_processes_give_what_one_gives(monkeypatch, count):
    """Of one pair the second process has none."""
    data, sent = bright_data(), []

    def exchange(mine, world):
        sent.append(mine)
        return sent

    monkeypatch.setattr(truth, "gather", exchange)
    pairs = draw(data, count)
    found = [weigh(data, pairs, world=World(rank, 2, 2, torch.device("cpu"))) for rank in range(2)][1]
    monkeypatch.undo()
    assert [len(mine["rows"]) for mine in sent] == [count - count // 2, count // 2]
    alone = weigh(data, pairs)
    assert np.array_equal(found.pairs, alone.pairs)
    assert found.lam["mean"] == pytest.approx(alone.lam["mean"], abs=1e-6)


def test_only_sure_foreground_counts():
    data = bright_data()
    unsure = lambda index: np.full(SIZE, UNSURE, dtype=np.uint8)  # noqa: E731
    found = truth.weigh(open_model(), data.val, unsure, draw(data, 3))
    assert found.whole.tolist() == [[0, 0]] * 3
    assert np.isnan(truth.true_lam(found.seen, found.whole)).all()


def test_an_image_that_cannot_be_read_is_left_out_with_its_pairs_as_far_as_allowed():
    data = bright_data()
    pairs = draw(data)
    broken = replace(data.val, bad={3: UnreadableImageError("three.png", "cut off")})
    masks = open_masks(data)
    with pytest.raises(DataError, match=r"three\.png: cannot read the image \(cut off\)"):
        truth.weigh(open_model(), broken, masks, pairs)
    found = truth.weigh(open_model(bad=BadImages(1)), broken, masks, pairs)
    assert found.pairs.tolist() == [number for number, pair in enumerate(pairs) if 3 not in pair[:2]]


def test_the_suite_yields_both_truths_with_intervals(monkeypatch):
    monkeypatch.setattr(truth, "PAIRS", 80)
    data = bright_data(empty=(0, 1, 2, 3, 4, 5))
    found = dict(load_suite("label-truth")(open_model(), data, Settings()))
    pairs = truth.draw_pairs(80, data.val.labels, SIZE, 0, per_box=PER_BOX)
    weighed = weigh(data, pairs)
    for by, suffix in (("object", ""), ("pixel", "_by_pixel")):
        true = truth.true_lam(weighed.seen, weighed.whole, by)
        assert found[f"pairs{suffix}"] == np.isfinite(true).sum()
        assert found[f"left_out{suffix}"] == 80 - found[f"pairs{suffix}"] > 0
        for rule, lam in weighed.lam.items():
            known = np.isfinite(true)
            expected = agreement(lam[known], true[known], weighed.lam_area[known], weighed.pairs[known] // PER_BOX)
            assert found[f"error_{rule}{suffix}"] == pytest.approx(expected["error"][0])
            assert found[f"error_{rule}{suffix}_interval"] == pytest.approx(list(expected["error"][1:]))
    assert found["left_out"] > found["left_out_by_pixel"]  # by object, both images must have foreground
    assert found["error_over_area_mean"] == pytest.approx(found["error_mean"] - found["error_area"])
    assert "error_over_area_area" not in found
    assert not any(name.endswith("_in_training") for name in found)  # training crops are square


def test_boxes_are_crossed_with_pairs_of_one_half():
    labels = np.arange(40) % 3
    pairs, halves = truth.draw_pairs(64, labels, SIZE, 3, per_box=8), image_halves(40, 3)
    assert sorted(halves[0] + halves[1]) == list(range(40))
    assert len(halves[0]) == len(halves[1]) == 20
    for start in range(0, 64, 8):
        block = pairs[start : start + 8]
        assert len({pair.box for pair in block}) == 1
        assert {index for pair in block for index in pair[:2]} <= set(halves[start // 8 % 2])
        assert len({pair[:2] for pair in block}) > 4
    assert len({pair.box for pair in pairs}) == 8
    assert pairs[:20] == truth.draw_pairs(20, labels, SIZE, 3, per_box=8)
    assert all(labels[pair.own] != labels[pair.partner] for pair in pairs)
    assert truth.draw_pairs(9, [0, 1], SIZE, 3, per_box=8)  # of two images, both halves are all


def some_weights(boxes=60, per_box=8, seed=0):
    rng = np.random.default_rng(seed)
    box = np.repeat(np.arange(boxes), per_box)
    of_box, of_images = rng.random(boxes)[box], rng.normal(0, 0.1, len(box))
    return rng, box, of_box, of_images


def test_what_is_specific_to_the_images_is_the_correlation_of_residuals_on_the_boxes():
    rng, box, of_box, of_images = some_weights()
    keep = rng.random(len(box)) > 0.3  # boxes have different numbers of pairs
    lam, true, box = (
        (of_box + of_images / 2 + rng.normal(0, 0.1, len(box)))[keep],
        (of_box + of_images)[keep],
        box[keep],
    )
    dummies = np.eye(60)[box]
    residuals = [
        values - LinearRegression(fit_intercept=False).fit(dummies, values).predict(dummies) for values in (lam, true)
    ]
    value, low, high = image_specific(lam, true, box)
    assert value == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-9)
    assert low < value < high < low + 0.3


def test_the_measure_cannot_be_fooled_by_the_box_and_sees_what_a_rule_knows():
    rng, box, of_box, of_images = some_weights(boxes=400)
    true = of_box + of_images
    assert image_specific(true, true, box) == pytest.approx((1, 1, 1))
    assert image_specific(of_box, true, box) == (0, 0, 0)
    assert image_specific(0.9 * of_box + 1e-12 * rng.random(len(box)), true, box) == (0, 0, 0)
    half_known = image_specific(of_box + of_images + rng.normal(0, 0.1, len(box)), true, box)
    assert half_known[0] == pytest.approx(2**-0.5, abs=0.03)
    blocks = true.reshape(-1, 8)
    for wrong in (np.roll(blocks, 1, axis=1).ravel(), of_box + rng.permutation(of_images)):
        value, low, high = image_specific(wrong, true, box)
        assert low < 0.05
        assert abs(value) < 0.2 < 0.7 < half_known[0]
        assert high > value > low
    assert image_specific(np.empty(0), np.empty(0), np.empty(0, dtype=int)) == (0, 0, 0)


def test_intervals_know_that_pairs_share_a_box():
    _, box, of_box, of_images = some_weights(boxes=200)
    values = of_box + of_images
    mean, low, high = mean_interval(values, box)
    drawn = np.random.default_rng(1).integers(0, 200, (2000, 200))
    means = values.reshape(200, 8).mean(1)[drawn].mean(1)
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.006)
    assert mean == pytest.approx(values.mean())
    alone = mean_interval(values)
    assert high - low > 2 * (alone[2] - alone[1])  # pairs for independent: far too narrow
    assert mean_interval(values, np.arange(len(values))) == pytest.approx(alone)
    assert math.isnan(mean_interval(values, np.zeros(len(values)))[1])


def test_an_image_without_an_object_is_no_ghost():
    seen, whole = np.array([[5.0, 0], [0, 5], [5, 5]]), np.array([[10.0, 0], [10, 9], [100, 9]])
    some = truth.PairLabels(np.arange(3), {}, np.ones(3), seen, whole)
    assert ghosts(some).tolist() == [False, True, True]


def test_images_that_cannot_be_read_count_for_the_mean_maps_too():
    data = bright_data()
    broken = replace(data.val, bad={3: UnreadableImageError("three.png", "cut off")})
    evaluator = open_model()
    view = truth.evaluation_view(evaluator, broken, open_masks(data))
    with pytest.raises(DataError, match=r"three\.png: cannot read the image"):
        truth.mean_maps(evaluator, broken, view, 0)
    assert len(truth.mean_maps(open_model(bad=BadImages(1)), broken, view, 0)) == 2


def test_the_line_is_fitted_on_the_other_half():
    data = bright_data(30)
    pairs = truth.draw_pairs(160, data.val.labels, SIZE, 0, per_box=PER_BOX)
    weighed = weigh(data, pairs, {"area": truth.RULES["area"]})
    true, half = truth.true_lam(weighed.seen, weighed.whole), half_of(weighed.pairs, PER_BOX)
    line = judged(weighed, "object").lam["line"]
    for scored in (0, 1):
        fitted = (half != scored) & ~np.isnan(true)
        model = LinearRegression().fit(weighed.lam_area[fitted, None], true[fitted])
        expected = np.clip(model.predict(weighed.lam_area[half == scored, None]), 0, 1)
        assert line[half == scored] == pytest.approx(expected, abs=1e-9)
    other = replace(weighed, seen=np.where((half == 1)[:, None], weighed.seen[:, ::-1], weighed.seen))
    moved = judged(other, "object").lam["line"]
    assert np.array_equal(moved[half == 1], line[half == 1])
    assert not np.allclose(moved[half == 0], line[half == 0], atol=0.01)


def test_clean_views_and_mean_maps_are_those_of_explicit_loops():
    data, model = bright_data(12), LooksAtBright(1.5)
    pairs = truth.draw_pairs(32, data.val.labels, SIZE, 0, per_box=PER_BOX)
    evaluator, masks = open_model(model), open_masks(data)
    view = truth.evaluation_view(evaluator, data.val, masks)
    found = judged(truth.weigh_all(evaluator, data.val, masks, pairs, 0, view), "object")

    def clean(index):
        light = data.val.masks[index].reshape(4, PATCH, 6, PATCH).mean((1, 3))
        row = np.exp(1.5 * (2 * light - 1))
        return row / row.sum()

    halves = image_halves(12, 0)
    means = [np.mean([clean(index) for index in half], axis=0) for half in halves]
    for number, (own, partner, (top, left, bottom, right)) in enumerate(pairs):
        pasted = np.zeros(SIZE)
        pasted[top:bottom, left:right] = 1
        pasted = pasted.reshape(4, PATCH, 6, PATCH).mean((1, 3))
        kept, shown = (clean(own) * (1 - pasted)).sum(), (clean(partner) * pasted).sum()
        assert found.lam["clean_view"][number] == pytest.approx(kept / (kept + shown), abs=1e-5)
        mean_map = means[1 - half_of(number, PER_BOX)]
        assert found.lam["mean_map"][number] == pytest.approx((mean_map * (1 - pasted)).sum(), abs=1e-5)
        assert found.lam["clean_view_mean"][number] == pytest.approx(
            (found.lam["clean_view"][number] + found.lam_area[number]) / 2, abs=1e-5
        )
        assert found.lam["clean_view_centre"][number] == pytest.approx(
            (found.lam["clean_view"][number] + found.lam["centre"][number]) / 2, abs=1e-6
        )
    by_rule = scores(found, "object")
    assert all(by_rule[rule]["image_specific"] == (0, 0, 0) for rule in NULL)
    assert by_rule["clean_view"]["image_specific"][0] > 0.4
    ghost = [
        min(seen / whole for seen, whole in zip(*pair, strict=True)) < 0.1
        for pair in zip(found.seen, found.whole, strict=True)
    ]
    known = np.isfinite(truth.true_lam(found.seen, found.whole)) & ghost
    error = np.abs(found.lam["mean"] - truth.true_lam(found.seen, found.whole))[known]
    assert 0 < known.sum() < 32
    assert by_rule["mean"]["ghost_error"][0] == pytest.approx(error.mean())


def test_training_crops_move_image_and_mask_alike():
    data, half = bright_data(20), (0.5,) * 3
    recipe = replace(
        load_recipe("digits"), augmentation=Augmentation(rand_augment=None, random_erasing=0.0, color_jitter=0.0)
    )
    loaded = LoadedModel("random", LooksAtBright().eval(), ("a", "b", "c"), Preprocessing((16, 16), 1.0, half, half))
    evaluator = Evaluator(replace(loaded, recipe=recipe), World(0, 1, 1, torch.device("cpu")), 8, 0)
    masks = open_masks(data)
    view = truth.training_view(evaluator, data.val, masks, 0)
    assert truth.training_view(open_model(), data.val, masks, 0) is None
    evaluation, differ = truth.evaluation_view(evaluator, data.val, masks), 0
    for index in range(20):
        pixels, mask = view(index)
        assert torch.equal(view(index)[0], pixels)
        assert ((pixels[0] >= 128) == mask).float().mean() > 0.98  # white on the object
        differ += not torch.equal(mask, evaluation(index)[1])
    assert differ > 10
    pairs = truth.draw_pairs(16, data.val.labels, (16, 16), 0, per_box=PER_BOX)
    found = truth.weigh(evaluator, data.val, masks, pairs, {"area": truth.RULES["area"]}, view)
    assert found.whole[:, 0].tolist() == [int(view(pair.own)[1].sum()) for pair in pairs]


def test_it_is_refused_before_anything_is_measured(noise, small_vit, opened):
    with pytest.raises(DataError, match=r"^noise: no foreground masks"):
        truth.label_truth(opened(), noise(), Settings())
    with pytest.raises(AttentionError, match="averages its class token away"):
        truth.label_truth(opened(small_vit(global_pool="avg")), bright_data(), Settings())
    data = bright_data(1)
    with pytest.raises(DataError, match=r"^a pair needs two images, there is 1$"):
        truth.label_truth(open_model(), data, Settings())


def test_agreement_is_that_of_scipy():
    rng = np.random.default_rng(0)
    true = rng.random(200).round(1)  # with ties
    lam = np.clip(true + rng.normal(0, 0.2, 200), 0, 1)
    found = agreement(lam, true, np.full(200, 0.5))
    difference = np.abs(lam - true)
    expected = scipy.stats.norm.interval(0.95, difference.mean(), scipy.stats.sem(difference))
    assert found["error"] == pytest.approx((difference.mean(), *expected), abs=1e-6)
    assert found["error_over_area"][0] == pytest.approx(np.mean(difference - np.abs(0.5 - true)))
    assert found["rank_correlation"][0] == pytest.approx(scipy.stats.spearmanr(lam, true).statistic, abs=1e-12)
    assert found["rank_correlation"][0] != pytest.approx(np.corrcoef(lam, true)[0, 1], abs=1e-4)


def test_the_interval_of_a_rank_correlation_is_about_the_bootstraps():
    rng = np.random.default_rng(1)
    true = rng.random(300)
    lam = true + rng.normal(0, 0.3, 300)
    _, low, high = rank_correlation(lam, true)
    rows = rng.integers(0, 300, (400, 300))
    drawn = [scipy.stats.spearmanr(lam[row], true[row]).statistic for row in rows]
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.03)


def test_where_there_is_nothing_to_compare_there_is_no_number():
    assert all(map(math.isnan, rank_correlation(np.ones(9), np.arange(9.0))))
    assert all(map(math.isnan, rank_correlation(np.arange(3.0), np.arange(3.0))))
    assert rank_correlation(np.arange(9.0), -np.arange(9.0)) == (-1, -1, -1)
    assert all(map(math.isnan, mean_interval(np.empty(0))))
    assert mean_interval(np.array([2.0]))[0] == 2
