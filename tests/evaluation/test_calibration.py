import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from transmix.evaluation.calibration import CalibrationError


def random_batch(seed, samples, classes, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def measured(logits, labels, sizes=None):
    error = CalibrationError(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        error.update(some_logits, some_labels)
    return dict(error.compute())["calibration_error"]


def slow_calibration_error(logits, labels, bins=15):
    """Follow the formula of Guo et al. bin by bin."""
    probability = logits.double().softmax(1).numpy()
    confidence, hit = probability.max(1), probability.argmax(1) == labels.numpy()
    error = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


def error_by_scikit_learn(logits, labels, bins=15):
    """Weight the points of scikit-learn's reliability curve, which has (lo, hi] bins as well."""
    probability = logits.double().softmax(1).numpy()
    confidence, hit = probability.max(1), probability.argmax(1) == labels.numpy()
    accurate, confident = calibration_curve(hit, confidence, n_bins=bins)
    share = np.histogram(confidence, bins=bins, range=(0, 1))[0] / len(hit)
    return float((share[share > 0] * np.abs(accurate - confident)).sum())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 80), classes=st.integers(2, 20))
def test_calibration_error_is_that_of_the_formula_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    ours = measured(logits, labels)
    theirs = multiclass_calibration_error(logits.softmax(1), labels, num_classes=classes, n_bins=15)
    assert ours == pytest.approx(slow_calibration_error(logits, labels), abs=1e-6)
    assert ours == pytest.approx(theirs.item(), abs=1e-6)
    assert ours == pytest.approx(error_by_scikit_learn(logits, labels), abs=1e-6)
    assert 0 <= ours <= 1


def test_a_confidence_of_exactly_one_shares_the_last_bin():
    # one sure and right, one nearly sure and wrong: in one bin the two errors partly cancel
    logits = torch.tensor([[100.0, 0.0], [3.5, 0.0]])
    labels = torch.tensor([0, 1])
    confidence = 1 / (1 + math.exp(-3.5))
    assert measured(logits, labels) == pytest.approx(abs(1 - (1 + confidence)) / 2, abs=1e-6)
    apart = multiclass_calibration_error(logits.softmax(1), labels, num_classes=2, n_bins=15)
    assert apart.item() == pytest.approx(confidence / 2, abs=1e-6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # with 2 bins, 0.5 stands on the edge: one wrong at 0.5, one right in the bin above
    error = CalibrationError(2, bins=2)
    error.update(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert error.confidence.tolist() == [0.5, 0.0]


def test_uneven_batches_and_an_empty_one_give_the_result_of_one_batch():
    logits, labels = random_batch(1, 40, 7)
    assert measured(logits, labels, [3, 30, 0, 7]) == pytest.approx(measured(logits, labels), abs=1e-9)


def test_the_mean_of_batch_errors_is_wrong_and_ours_is_right():
    logits, labels = random_batch(2, 40, 7)
    naive = np.mean([measured(logits[:3], labels[:3]), measured(logits[3:], labels[3:])])
    assert abs(naive - slow_calibration_error(logits, labels)) > 0.01
    assert measured(logits, labels, [3, 37]) == pytest.approx(slow_calibration_error(logits, labels), abs=1e-6)


def test_bfloat16_logits_are_read_in_float32():
    logits, labels = random_batch(3, 100, 9)
    logits = logits.bfloat16()
    assert measured(logits, labels) == pytest.approx(slow_calibration_error(logits, labels), abs=1e-6)


def test_a_model_as_sure_as_it_is_right_has_no_error():
    logits = torch.tensor([[math.log(3.0), 0.0]]).expand(4, 2)  # says 75 %
    assert measured(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    assert measured(logits, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_logit_makes_the_error_nan(poison):
    logits, labels = random_batch(4, 8, 6)
    logits[2, 4] = poison
    assert math.isnan(measured(logits, labels))


def test_what_each_bin_holds_is_what_the_error_is_made_of():
    generator = torch.Generator().manual_seed(5)
    logits, labels = 3 * torch.randn(200, 4, generator=generator), torch.randint(4, (200,), generator=generator)
    error = CalibrationError(4, bins=10)
    error.update(logits, labels)
    found = dict(error.compute()) | {"reliability": error.reliability()}
    confidence, predicted = logits.softmax(1).max(1)
    where = torch.ceil(confidence * 10).long() - 1  # bins (m/10, (m+1)/10]
    for bin_number in range(10):
        inside = where == bin_number
        assert found["reliability"]["count"][bin_number] == int(inside.sum())
        assert found["reliability"]["hits"][bin_number] == int((predicted == labels)[inside].sum())
        assert found["reliability"]["confidence"][bin_number] == pytest.approx(
            float(confidence[inside].sum()), abs=1e-4
        )
    gaps = zip(found["reliability"]["hits"], found["reliability"]["confidence"], strict=True)
    assert found["calibration_error"] == pytest.approx(sum(abs(right - sure) for right, sure in gaps) / 200, abs=1e-9)
