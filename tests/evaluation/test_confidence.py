import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from transmix.evaluation.accumulators import CalibrationError
from transmix.evaluation.confidence import (
    Confidences,
    ascending,
    aurra,
    equal_count,
    equal_mass,
    equal_width,
    gaps,
    mean_gap,
    published_rms,
    root_mean_square_gap,
)

NAMES = [
    "calibration_error_equal_mass",
    "maximum_calibration_error",
    "rms_calibration_error",
    "rms_calibration_error_published",
    "aurra",
]


def random_batch(seed, samples, classes, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def sorted_batch(logits, labels):
    confidence, predicted = logits.softmax(1).max(1)
    return ascending(confidence.numpy(), (predicted == labels).numpy())


def measured(logits, labels, sizes=None):
    confidences = Confidences(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        confidences.update(some_logits, some_labels)
    return dict(confidences.compute())


def published_error(confidence, correct, size=100, last=False):
    """Follow the published code's formula: bins of `size` sorted samples, the rest in the last, which is left out."""
    order = sorted(range(len(confidence)), key=lambda sample: confidence[sample])
    bins = [order[start : start + size] for start in range(0, len(order) // size * size, size)]
    bins[-1] = order[(len(bins) - 1) * size :]
    total = 0.0
    for samples in bins if last else bins[:-1]:
        gap = sum(confidence[one] - correct[one] for one in samples) / len(samples)
        total += len(samples) / len(order) * gap**2
    return total**0.5


def published_aurra(confidence, correct):
    order = sorted(range(len(confidence)), key=lambda sample: -confidence[sample])
    right, accuracies = 0, []
    for answered, sample in enumerate(order, 1):
        right += correct[sample]
        accuracies.append(right / answered)
    return sum(accuracies) / len(accuracies)


def equal_mass_error(confidence, correct, bins=15):
    order, total = sorted(range(len(confidence)), key=lambda sample: confidence[sample]), 0.0
    for m in range(bins):
        samples = order[m * len(order) // bins : (m + 1) * len(order) // bins]
        total += abs(sum(confidence[one] - correct[one] for one in samples)) / len(order)
    return total


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 80), classes=st.integers(2, 20))
def test_bins_of_equal_width_give_the_errors_of_torchmetrics(seed, samples, classes):
    """No confidence of these is on an edge of a bin: there torchmetrics' bins are [lo, hi), ours (lo, hi]."""
    logits, labels = random_batch(seed, samples, classes)
    confidence, right = sorted_batch(logits, labels)
    found = gaps(confidence, right, equal_width(confidence))
    ours = {"l1": mean_gap(*found), "l2": root_mean_square_gap(*found), "max": found[1].max()}
    for norm, value in ours.items():
        theirs = multiclass_calibration_error(logits.softmax(1), labels, num_classes=classes, n_bins=15, norm=norm)
        assert value == pytest.approx(theirs.item(), abs=1e-6), norm


def test_a_confidence_on_an_edge_is_in_the_bin_below_as_in_calibration_error():
    edges = torch.linspace(0, 1, 16)
    confidence, right = ascending(edges[1:].numpy(), np.zeros(15))
    assert equal_width(confidence).tolist() == list(range(15))
    assert (torch.bucketize(edges[1:], edges) - 1).tolist() == list(range(15))  # which is how that one sorts into bins
    share, gap = gaps(confidence, right, equal_width(confidence))
    assert share.tolist() == [1 / 15] * 15
    assert gap == pytest.approx(confidence)


def test_expected_calibration_error_is_that_of_the_accumulator():
    logits, labels = random_batch(3, 300, 6)
    confidence, right = sorted_batch(logits, labels)
    error = CalibrationError(6)
    error.update(logits, labels)
    ours = mean_gap(*gaps(confidence, right, equal_width(confidence)))
    assert ours == pytest.approx(dict(error.compute())["calibration_error"], abs=1e-9)


@pytest.mark.parametrize("samples", [100, 199, 200, 431])
def test_rms_and_aurra_are_those_of_the_published_formulas(samples):
    logits, labels = random_batch(samples, samples, 10)
    confidence, predicted = logits.softmax(1).max(1)
    correct = (predicted == labels).double().tolist()
    confidence = confidence.double().tolist()
    ours = measured(logits, labels)
    assert list(ours) == NAMES
    assert ours["rms_calibration_error"] == pytest.approx(published_error(confidence, correct, last=True), abs=1e-6)
    assert ours["aurra"] == pytest.approx(published_aurra(confidence, correct), abs=1e-6)
    assert ours["calibration_error_equal_mass"] == pytest.approx(equal_mass_error(confidence, correct), abs=1e-6)
    if samples >= 200:
        published = published_error(confidence, correct)
        assert ours["rms_calibration_error_published"] == pytest.approx(published, abs=1e-6)
        assert ours["rms_calibration_error"] > published + 1e-3  # the bin left out is the most confident one
    else:
        assert np.isnan(ours["rms_calibration_error_published"])


def test_fewer_samples_than_a_bin_has_or_than_bins_there_are_are_one_bin_and_single_samples():
    assert equal_count(7).tolist() == [0]
    assert equal_count(100).tolist() == [0]
    assert equal_count(299).tolist() == [0, 100]
    share, _ = gaps(np.full(7, 0.5), np.ones(7), equal_mass(7))
    assert share.tolist() == [1 / 7] * 7
    assert np.isnan(published_rms(np.full(150, 0.5), np.ones(150)))


rounded = st.lists(st.tuples(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=260)


@settings(deadline=None, max_examples=30)
@given(samples=rounded, seed=st.integers(0, 1000))
def test_the_order_of_samples_does_not_matter_even_where_confidences_are_equal(samples, seed):
    confidence, hits = (np.array(column) for column in zip(*samples, strict=True))
    order = np.random.default_rng(seed).permutation(len(hits))
    one, other = ascending(confidence, hits), ascending(confidence[order], hits[order])
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_sorting_alone_would_let_the_order_matter():
    confidence, hits = np.full(4, 0.5), np.array([0.0, 0, 1, 1])
    assert aurra(hits) != aurra(hits[::-1])
    assert aurra(ascending(confidence, hits)[1]) == aurra(ascending(confidence, hits[::-1])[1]) == 0.5


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 249))
def test_batches_do_not_matter_and_results_are_fractions(seed, cut):
    logits, labels = random_batch(seed, 250, 7)
    whole = measured(logits, labels)
    assert measured(logits, labels, [cut, 250 - cut]) == whole
    assert all(0 <= value <= 1 for value in whole.values())


def test_a_model_that_is_always_right_and_sure_has_no_error():
    logits = 100 * torch.eye(5)[torch.arange(250) % 5]
    found = measured(logits, torch.arange(250) % 5)
    assert found == dict.fromkeys(NAMES, 0.0) | {"aurra": 1.0}


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_makes_every_result_nan(broken):
    logits, labels = random_batch(0, 250, 5)
    logits[17, 2] = broken
    assert all(np.isnan(value) for value in measured(logits, labels).values())


def test_no_sample_gives_nan():
    assert all(np.isnan(value) for value in dict(Confidences(5).compute()).values())
