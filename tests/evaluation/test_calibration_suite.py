from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.evaluation.calibration_suite import calibration, halves
from transmix.evaluation.evaluate import part_of
from transmix.evaluation.suites import Settings


def test_scores_are_those_of_the_halves_and_of_all(opened, noise, logits_of):
    one, data = opened(), noise(61)
    found = dict(calibration(one, data, Settings(suite_seed=4)))
    logits, labels = logits_of(one, data.val)
    fitting, scoring = map(torch.from_numpy, halves(61, seed=4))
    assert sorted([*fitting.tolist(), *scoring.tolist()]) == list(range(61))
    temperature = found["temperature"]
    assert found["images"] == 61
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    before = F.cross_entropy(logits[scoring], labels[scoring]).item()
    after = F.cross_entropy(logits[scoring] / temperature, labels[scoring]).item()
    assert found["loss_before"] == pytest.approx(before, abs=1e-5)
    assert found["loss_after"] == pytest.approx(after, abs=1e-5)
    around = [
        F.cross_entropy(logits[fitting] / t, labels[fitting]).item()
        for t in (0.98 * temperature, temperature, 1.02 * temperature)
    ]
    assert min(around) == around[1]
    assert {"brier_score", "calibration_error", "aurra", "brier_score_after", "calibration_error_before"} <= set(found)


def test_batch_size_does_not_matter_and_each_image_passes_the_model_once(opened, noise):
    one, data, seen = opened(batch_size=7), noise(23), []
    one.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    found = dict(calibration(one, data, Settings()))
    assert sum(seen) == 23
    again = dict(calibration(replace(one, batch_size=2), data, Settings()))
    assert found == pytest.approx(again, abs=1e-6, nan_ok=True)


def test_the_halves_follow_from_the_seed():
    assert [len(half) for half in halves(7, 0)] == [3, 4]
    assert np.array_equal(halves(50, 1)[0], halves(50, 1)[0])
    assert not np.array_equal(halves(50, 1)[0], halves(50, 2)[0])


def test_one_image_cannot_be_halved_and_it_is_said_before_anything_runs(opened, noise):
    with pytest.raises(DataError, match=r"noise: temperature scaling needs at least two images, there is 1"):
        calibration(opened(), noise(1), Settings())


def test_images_that_cannot_be_read_are_left_out(opened, noise):
    data = noise(23)
    bad = {5: UnreadableImageError("five.png", "truncated")}
    broken = ImageData("noise", data.classes, data.train, replace(data.val, bad=bad))
    found = dict(calibration(opened(bad=BadImages(1)), broken, Settings()))
    assert found["images"] == 22
    with pytest.raises(DataError, match=r"five.png: cannot read the image \(truncated\)"):
        dict(calibration(opened(bad=BadImages(0)), broken, Settings()))


class Decoded:
    """Images that are decoded when indexed, as files are."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.parametrize("kind", [np.asarray, list, Decoded])
def test_a_part_of_a_split_keeps_images_labels_and_bad_ones(noise, kind):
    whole = noise(9).val
    bad = {3: UnreadableImageError("three", "torn"), 4: UnreadableImageError("four", "torn")}
    part = part_of(Split(kind(whole.images), whole.labels, bad=bad), np.array([1, 4, 8]))
    assert [np.array_equal(part.images[new], whole.images[old]) for new, old in enumerate([1, 4, 8])] == [True] * 3
    assert part.labels.tolist() == whole.labels[[1, 4, 8]].tolist()
    assert {index: error.where for index, error in part.bad.items()} == {1: "four"}
