from dataclasses import replace

import numpy as np
import pytest
import torch
from timm import create_model
from torch import nn
from torch.nn import functional as F

from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, Parts, Split, UnreadableImageError
from transmix.data.source import open_data
from transmix.evaluation.evaluate import part_of
from transmix.evaluation.features import both_features, features_of, hits, probe_positions
from transmix.evaluation.suites import Settings, load_suite
from transmix.recipes import RecipeError

OF_FEATURES = ("knn", "linear-probe", "segmentation-probe")


def timm_features(model, split):
    """Take the other way to features: timm's own, in one batch."""
    pixels = torch.from_numpy(split.images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        return model.forward_head(model.forward_features(pixels), pre_logits=True), pixels


@pytest.mark.parametrize(("classes", "options"), [(3, {}), (0, {}), (3, {"global_pool": "avg"})])
def test_features_are_what_timm_gives_before_the_classifier(opened, coloured, small_vit, classes, options):
    model, data = small_vit(classes=3, **options), coloured()
    model.reset_classifier(classes)
    found = features_of(opened(model), data.val, "val")
    expected, pixels = timm_features(model, data.val)
    torch.testing.assert_close(found.vectors, expected)
    torch.testing.assert_close(found.pixels, F.avg_pool2d(pixels, 2).flatten(1))
    assert found.labels.tolist() == data.val.labels.tolist()


def test_a_compiled_model_that_has_run_gives_the_same_features(opened, coloured, small_vit):
    """A hook that came after the first run of a compiled model would not be called."""
    data, plain = coloured(), opened()
    compiled = replace(plain, loaded=replace(plain.loaded, model=torch.compile(plain.model, backend="eager")))
    with torch.no_grad():
        compiled.model(torch.zeros(2, 3, 16, 16))
    found = (features_of(one, data.val, "val").vectors for one in (plain, compiled))
    torch.testing.assert_close(*found)


def test_test_time_augmentation_leaves_features_alone(opened, coloured):
    found = [features_of(opened(tta=tta), coloured().val, "val").vectors for tta in ("none", "flip")]
    assert torch.equal(*found)


def test_the_second_suite_does_not_run_the_model_again(opened, coloured, monkeypatch):
    one, data, runs = opened(), coloured(), []
    one.model.register_forward_hook(lambda *_: runs.append(1))
    both_features(one, data, np.arange(20))
    first = len(runs)
    both_features(one, data, np.arange(20))
    assert len(runs) == first > 0
    both_features(one, data, np.arange(19))
    assert len(runs) > first


def test_unreadable_images_are_left_out_with_their_labels(opened, coloured):
    data = coloured()
    broken = {2: UnreadableImageError("2.png", "cut off")}
    bad = replace(data.val, bad=broken)
    found = features_of(opened(bad=BadImages(1)), bad, "val")
    kept = np.delete(np.arange(len(data.val)), 2)
    assert found.labels.tolist() == data.val.labels[kept].tolist()
    torch.testing.assert_close(found.vectors, features_of(opened(), part_of(data.val, kept), "val").vectors)


def test_features_that_are_not_finite_are_an_error(opened, coloured, small_vit, says):
    model = small_vit()
    nn.init.constant_(model.norm.bias, torch.inf)
    with says(DataError, "val: the model's features of 21 of 21 images hold NaN or Inf"):
        features_of(opened(model), coloured().val, "val")


def test_a_model_without_one_classifier_is_refused(opened, coloured, says):
    model = create_model("deit_tiny_distilled_patch16_224", img_size=16, patch_size=4, depth=1)
    said = "VisionTransformerDistilled has no single linear classifier, whose input would be its features"
    with says(RecipeError, said):
        features_of(opened(model), coloured().val, "val")
    assert dict(load_suite("segmentation-probe")(opened(model), coloured(), Settings()))["miou"] > 0  # needs none


def test_training_images_are_drawn_by_the_seed_alone(coloured):
    data = coloured()
    drawn = [probe_positions(data, Settings(seed, probe_images=10), "knn").tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10
    assert drawn[0] == sorted(drawn[0])
    assert probe_positions(data, Settings(), "knn").tolist() == list(range(48))


REMEDY = "give data with a part to train on and another to measure: --data FOLDER, or --split val"


@pytest.mark.parametrize("suite", OF_FEATURES)
def test_images_are_not_measured_on_themselves(opened, coloured, suite, says):
    one, data = opened(), coloured()
    same = replace(data, val=data.train)
    renamed = replace(data, parts=Parts("train"))
    none = replace(data, train=part_of(data.train, np.arange(0)))
    none = replace(none, train=replace(none.train, masks=data.train.masks[:0]))
    shares, lacks = "measures ({}) images that it fits on", "has no training images"
    for wrong, what in ((same, shares.format("val")), (renamed, shares.format("train")), (none, lacks)):
        with says(DataError, f"coloured: the suite {suite!r} {what}; {REMEDY}"):
            load_suite(suite)(one, wrong, Settings())
    with says(RecipeError, "probe_images must be at least 1, not 0"):
        load_suite(suite)(one, data, Settings(probe_images=0))


def test_files_that_are_in_both_parts_are_found(opened, tmp_path, write_folders, says):
    for part in ("train", "val"):
        write_folders(tmp_path / part, {"ant": 3, "bee": 3})
    data = open_data(tmp_path)
    assert len(probe_positions(data, Settings(), "knn")) == 6
    mixed = replace(data, val=Split(data.train.images.take(np.array([4])), data.train.labels[4:5]))
    with says(DataError, f"{data.name}: the suite 'knn' measures (val) images that it fits on; {REMEDY}"):
        probe_positions(mixed, Settings(), "knn")


def test_hits_are_counted_as_by_hand():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (200, 9)).astype(np.float64)  # many are equal
    scores[scores == 0] = -np.inf
    labels = rng.integers(0, 9, 200)
    expected = [0, 0]
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        order = [at for at in sorted(range(9), key=lambda at: -row[at]) if row[at] > -np.inf]
        expected[0] += label in order[:1]
        expected[1] += label in order[:5]
    assert hits(torch.from_numpy(scores), torch.from_numpy(labels)).tolist() == expected
