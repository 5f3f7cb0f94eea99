"""The mean over an image and its mirror, against loops, scikit-learn and torchmetrics."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from transmix.cli import main
from transmix.evaluation.evaluate import score
from transmix.evaluation.tta import FlipMean


def mean_of_both(opened, split):
    """Mean probabilities (N, K) of every image and its mirror, one image at a time in NumPy."""
    means = []
    for image in split.images:
        both = []
        for pixels in (image, image[:, ::-1]):
            values = (torch.tensor(pixels / 255.0).permute(2, 0, 1).float() - 0.5) / 0.5
            with torch.no_grad():
                logits = opened.model(values[None])[0].double().numpy()
            both.append(np.exp(logits) / np.exp(logits).sum())
        means.append((both[0] + both[1]) / 2)
    return np.array(means)


def test_scores_are_those_of_the_mean_probabilities(opened, noise):
    one, data = opened(tta="flip"), noise()
    found, means = score([one], data)["model"], mean_of_both(one, data.val)
    assert found["top1"] == accuracy_score(data.val.labels, means.argmax(1))
    assert found["loss"] == pytest.approx(log_loss(data.val.labels, means, labels=range(6)), abs=1e-5)
    theirs = multiclass_calibration_error(torch.tensor(means), torch.tensor(data.val.labels), 6, n_bins=15)
    assert found["calibration_error"] == pytest.approx(float(theirs), abs=1e-5)
    logits = torch.cat([one.logits(pixels) for pixels, *_ in one.batches(data.val)])
    np.testing.assert_allclose(logits.softmax(1), means, atol=1e-6)
    plain = score([opened()], data)["model"]
    assert abs(plain["loss"] - found["loss"]) > 1e-3  # without it, other scores


def test_a_mean_of_logits_or_of_another_mirror_would_be_seen(opened, noise):
    one, data = opened(tta="flip"), noise()
    means = mean_of_both(one, data.val)
    for axis, mean in (
        (-1, lambda a, b: ((a + b) / 2).softmax(1)),
        (-2, lambda a, b: (a.softmax(1) + b.softmax(1)) / 2),
    ):
        (pixels,) = [batch for batch, *_ in opened(batch_size=23).batches(data.val)]
        with torch.no_grad():
            wrong = mean(one.model(pixels), one.model(pixels.flip(axis)))
        assert np.abs(wrong.numpy() - means).max() > 1e-3


def test_an_image_and_its_mirror_have_one_answer_without_overflow():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 3))
    pixels = 1e4 * torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer, mirrored = FlipMean(model)(pixels), FlipMean(model)(pixels.flip(-1))
        assert not torch.allclose(model(pixels), model(pixels.flip(-1)))
    torch.testing.assert_close(answer, mirrored)
    assert answer.isfinite().all()


def test_evaluate_says_and_writes_that_it_averages(opened, images, tmp_path, capsys):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "w.safetensors")
    command = ["evaluate", tmp_path / "w.safetensors", "--model", "test_vit", "--data", images, "--workers", 0]
    for more in ([], ["--tta", "flip"]):
        assert main(list(map(str, [*command, "--threads", 1, "--out", tmp_path / "e.json", *more]))) == 0
        assert ("test-time augmentation: flip, of every score below" in capsys.readouterr().out) == bool(more)
        assert json.loads((tmp_path / "e.json").read_text()).get("tta") == ("flip" if more else None)
