from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torchmetrics import JaccardIndex

from transmix.data.dataset import DataError
from transmix.data.masks import UNSURE
from transmix.evaluation import segmentation_probe as module
from transmix.evaluation.segmentation_probe import confusion, draw, scores, shares_on_patches
from transmix.evaluation.suites import Settings, load_suite
from transmix.recipes import RecipeError


def measure(one, data, **settings):
    return dict(load_suite("segmentation-probe")(one, data, Settings(**settings)))


def test_scores_are_torchmetrics_over_all_pixels_without_unsure_ones():
    torch.manual_seed(0)
    masks = torch.randint(0, 3, (5, 12, 18), dtype=torch.uint8)
    logits = torch.randn(5, 3, 6)
    counts = sum(confusion(logits[rows], masks[rows]) for rows in (slice(0, 2), slice(2, 5)))
    upsampled = F.interpolate(logits[:, None], size=(12, 18), mode="bilinear", align_corners=False)[:, 0]
    found = scores(counts)
    for average, names in (("macro", ["miou"]), ("none", ["iou_background", "iou_foreground"])):
        theirs = JaccardIndex("multiclass", num_classes=3, ignore_index=UNSURE, average=average)
        expected = theirs((upsampled > 0).long(), masks.long()).reshape(-1)[: len(names)].tolist()
        assert [found[name] for name in names] == pytest.approx(expected, abs=1e-6)
    sure = masks != UNSURE
    assert found["pixel_accuracy"] == pytest.approx(((upsampled > 0) == masks.bool())[sure].double().mean().item())


def by_hand(model, data):
    """Fit scikit-learn's layer on timm's tokens, each patch once as background and once as foreground."""
    tokens, masks, upsampled = [], [], None
    for split in (data.train, data.val):
        pixels = torch.from_numpy(split.images).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            tokens.append(model.forward_features(pixels)[:, 1:].double().numpy())
        masks.append(torch.from_numpy(split.masks))
    share = F.avg_pool2d(masks[0][:, None].double(), 4).flatten().numpy()
    flat = tokens[0].reshape(-1, tokens[0].shape[-1])
    scaler = StandardScaler().fit(flat)
    rows, labels = scaler.transform(np.concatenate([flat, flat])), np.repeat([0, 1], len(flat))
    layer = LogisticRegression(C=2, tol=1e-10, max_iter=10_000).fit(rows, labels, np.concatenate([1 - share, share]))
    logits = layer.decision_function(scaler.transform(tokens[1].reshape(-1, flat.shape[-1])))
    logits = torch.from_numpy(logits).view(len(tokens[1]), 1, 4, 4)
    upsampled = F.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False)[:, 0]
    return JaccardIndex("multiclass", num_classes=2)((upsampled > 0).long(), masks[1].long()).item()


def test_the_suite_is_a_linear_layer_on_timms_tokens(opened, coloured, small_vit):
    model, data = small_vit(classes=3), coloured(train=80)
    found = measure(opened(model), data)
    assert found["miou"] == pytest.approx(by_hand(model, data), abs=2e-3)
    assert found["miou"] > found["miou_position"] + 0.1
    assert found["miou_position"] >= found["miou_constant"] - 0.05
    assert (found["train_images"], found["images"], found["patches"]) == (80, 21, 80 * 16)
    masks = data.val.masks
    expected = max((masks.mean(), 1 - masks.mean())) / 2
    assert found["miou_constant"] == pytest.approx(expected)


def test_shuffled_masks_fall_to_what_position_and_a_constant_score(opened, coloured):
    """The negative control: what the layer finds comes from what an image's own mask shows."""
    data, one = coloured(train=200, val=100), opened()
    order = np.random.default_rng(0).permutation(200)
    wrong = replace(data, train=replace(data.train, masks=data.train.masks[order]))
    found, shuffled = measure(one, data), measure(one, wrong)
    nulls = [shuffled["miou_position"], shuffled["miou_constant"]]
    assert min(nulls) - 0.03 < shuffled["miou"] < max(nulls) + 0.03 < found["miou"] - 0.1
    assert {name: found[name] for name in found if name.endswith(("_position", "_constant"))} == {
        name: shuffled[name] for name in found if name.endswith(("_position", "_constant"))
    }


def test_position_alone_is_enough_where_objects_are_always_at_one_place(opened, coloured):
    data = coloured()
    for split in (data.train, data.val):
        split.masks[:] = False
        split.masks[:, 4:12, 8:16] = True
    found = measure(opened(), data)
    assert found["miou_position"] > 0.8 > 0.6 > found["miou_constant"]


def test_unsure_pixels_count_neither_in_the_fit_nor_in_the_score():
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, :4, :2], masks[:, :4, 2:4], masks[:, 4:, 4:] = 1, UNSURE, UNSURE
    expected = [[0, 0.5], [1, 0], [1, 0], [0, 0]]
    assert shares_on_patches(masks, (2, 2))[0].tolist() == expected
    assert confusion(torch.ones(1, 2, 2), masks).tolist() == [[0, 32], [0, 8]]


def test_patches_are_drawn_for_each_image_by_the_seed(monkeypatch):
    assert draw(16, 100, 0, 3).tolist() == list(range(16))
    monkeypatch.setattr(module, "PATCHES", 500)
    first = draw(16, 100, 0, 3)
    assert len(set(first.tolist())) == 5
    assert first.tolist() == draw(16, 100, 0, 3).tolist() != draw(16, 100, 0, 4).tolist()
    assert len(draw(16, 9999, 0, 3)) == 1


def test_the_drawn_patches_have_their_own_shares(opened, coloured, monkeypatch):
    """Fewer patches give nearly the score of all; taken with the shares of others, that of no image."""
    one, data = opened(), coloured(train=200, val=60)
    every = measure(one, data)
    monkeypatch.setattr(module, "PATCHES", 1600)
    some = measure(one, data)
    assert some["patches"] == 1600
    assert some["miou"] == pytest.approx(every["miou"], abs=0.05)
    assert some["miou_position"] == every["miou_position"]


def test_what_cannot_be_measured_is_an_error(opened, coloured, noise, says):
    one, data = opened(), coloured()
    none = "no foreground masks. They come with 'digits', with Parquet files that have a column 'mask', and with"
    with pytest.raises(DataError, match=f"^noise: {none} Oxford-IIIT Pet where annotations/trimaps is unpacked$"):
        measure(one, noise())
    for part, called in (("train", "training"), ("val", "validation")):
        split = getattr(data, part)
        empty = replace(data, **{part: replace(split, masks=np.zeros_like(split.masks))})
        with says(DataError, f"coloured: the masks of the {called} images show no foreground, or no background"):
            measure(one, empty)
    what = "Net has no forward_intermediates, timm's way to its patch tokens"
    with says(RecipeError, f"{what}; take a model of timm's that has it, or leave the suite 'segmentation-probe' out"):
        measure(opened(type("Net", (nn.Flatten,), {})()), data)
