"""The reliability diagram's bins, counted again by hand and against the calibration error of the evaluation."""

import itertools

import numpy as np
import pytest
import torch

from transmix.evaluation.accumulators import CalibrationError
from transmix.visual.palette import MODEL, PALE, PARTNER
from transmix.visual.reliability import reliability, reliability_figure


def predictions(count=300, classes=4, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    wrong = torch.rand(count, generator=generator) < 0.3
    return logits, torch.where(wrong, torch.randint(0, classes, (count,), generator=generator), logits.argmax(1))


def by_hand(logits, labels, bins):
    """Sort one prediction after the other."""
    members = [[] for _ in range(bins)]
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        confidence = probabilities.max()
        place = next(m for m in range(bins) if m / bins < confidence <= (m + 1) / bins or m == bins - 1)
        members[place].append((confidence, list(probabilities).index(confidence) == label))
    return members


@pytest.mark.parametrize("bins", [10, 15])
def test_bins_are_those_counted_by_hand(bins):
    logits, labels = predictions()
    found, members = reliability(logits, labels, bins), by_hand(logits, labels, bins)
    assert found.counts.tolist() == [len(samples) for samples in members]
    assert found.counts.sum() == 300
    for place, samples in enumerate(members):
        if samples:
            assert found.confidence[place] == pytest.approx(np.mean([confidence for confidence, _ in samples]))
            assert found.accuracy[place] == pytest.approx(np.mean([hit for _, hit in samples]))
        else:
            assert np.isnan([found.confidence[place], found.accuracy[place]]).all()
    assert not np.array_equal(found.counts, reliability(logits.flip(0) * 0.5, labels.flip(0), bins).counts)


def test_the_error_is_that_of_the_evaluation():
    logits, labels = predictions()
    accumulator = CalibrationError(4)
    accumulator.update(logits, labels)
    assert reliability(logits, labels).error == pytest.approx(
        dict(accumulator.compute())["calibration_error"], abs=1e-6
    )


def test_full_certainty_falls_in_the_last_bin_and_an_even_guess_on_an_edge_below_it():
    found = reliability(torch.tensor([[1000.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("width", [3.3, 6.9])
def test_bars_are_accuracy_and_counts_and_the_gap_reaches_to_the_confidence(width, nothing_overlaps):
    logits, labels = predictions()
    found = reliability(logits, labels)
    figure = reliability_figure(found, title="a run", width=width)
    nothing_overlaps(figure)
    upper, lower = figure.axes
    bars = {container.get_label(): container for axes in (upper, lower) for container in axes.containers}
    full = found.counts > 0
    assert 0 < full.sum() < len(full)
    assert [bar.get_height() for bar in bars["accuracy"]] == pytest.approx(found.accuracy[full])
    assert [bar.get_x() for bar in bars["accuracy"]] == pytest.approx(np.arange(15)[full] / 15)
    assert [bar.get_y() + bar.get_height() for bar in bars["gap"]] == pytest.approx(found.confidence[full])
    assert [bar.get_y() for bar in bars["gap"]] == pytest.approx(found.accuracy[full])
    assert [bar.get_height() for bar in bars["images"]] == found.counts.tolist()
    assert [int(text.get_text()) for text in lower.texts] == found.counts[full].tolist()
    assert len({MODEL, PARTNER, PALE}) == 3
    words = " ".join(text.get_text() for text in figure.texts)
    assert f"expected calibration error {found.error:.1%}" in words
    assert "300 images" in words


def test_large_counts_stand_upright_and_apart():
    found = reliability(*predictions(3000))
    figure = reliability_figure(found._replace(counts=found.counts * 40))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    assert all(box.y1 <= figure.axes[0].get_window_extent().y0 for box in boxes)


def test_predictions_without_a_confidence_are_refused():
    logits, labels = predictions(5)
    logits[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^1 of 5 predictions are not finite; they have no confidence to sort by$"):
        reliability(logits, labels)
    with pytest.raises(ValueError, match="no predictions"):
        reliability(logits[:0], labels[:0])
