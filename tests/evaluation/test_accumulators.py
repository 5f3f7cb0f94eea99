"""The accumulators of one evaluation equal torchmetrics and scikit-learn, in batches of any size."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_recall,
)
from torchmetrics.functional.text import perplexity

from transmix.evaluation.accumulators import (
    Accuracy,
    BrierScore,
    CalibrationError,
    Confusion,
    CrossEntropy,
    sum_over_ranks,
)

KINDS = [Accuracy, CrossEntropy, BrierScore, CalibrationError, Confusion]
NOT_FINITE = [math.nan, math.inf, -math.inf]


def random_batch(seed, samples, classes, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def filled(kind, logits, labels, sizes=None):
    accumulator = kind(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        accumulator.update(some_logits, some_labels)
    return accumulator


def measured(kind, logits, labels, sizes=None):
    return dict(filled(kind, logits, labels, sizes).compute())


# ------------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("kind", KINDS)
def test_uneven_batches_and_an_empty_one_give_the_sums_of_one_batch(kind):
    batch = random_batch(1, 40, 7)
    some, whole = (vars(filled(kind, *batch, sizes)) for sizes in ([1, 27, 0, 12], None))
    sums = [name for name, value in whole.items() if isinstance(value, torch.Tensor)]
    assert sums
    assert all(torch.allclose(some[name], whole[name], rtol=0, atol=1e-9) for name in sums)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("logits", "labels", "error"),
    [
        (torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64), ValueError),
        (torch.zeros(3, 6), torch.zeros(4, dtype=torch.int64), ValueError),
        (torch.zeros(3, 6, 1), torch.zeros(3, dtype=torch.int64), ValueError),
        (torch.zeros(3, 6), torch.zeros(3, dtype=torch.int32), TypeError),
        (torch.zeros(3, 6, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), TypeError),
    ],
)
def test_wrong_shapes_and_types_are_refused(kind, logits, labels, error):
    with pytest.raises(error, match="expected"):
        kind(6).update(logits, labels)


@pytest.mark.parametrize("kind", [CrossEntropy, Confusion])
@pytest.mark.parametrize("label", [-100, -1, 6])
def test_a_label_outside_the_classes_raises_instead_of_being_ignored(kind, label):
    with pytest.raises((IndexError, RuntimeError), match=r"[Ii]ndex"):
        kind(6).update(torch.zeros(2, 6), torch.tensor([0, label]))


@pytest.mark.parametrize("kind", [CrossEntropy, BrierScore, CalibrationError])
@pytest.mark.parametrize("poison", NOT_FINITE)
def test_a_logit_that_is_not_finite_makes_the_score_nan(kind, poison):
    logits, labels = random_batch(4, 8, 6)
    labels[:] = 0
    logits[2, 4] = poison
    assert math.isnan(next(iter(measured(kind, logits, labels).values())))


@pytest.mark.parametrize("kind", [Accuracy, CrossEntropy, BrierScore, CalibrationError])
def test_the_score_of_nothing_is_nan(kind):
    assert math.isnan(next(iter(dict(kind(6).compute()).values())))


def test_summing_over_ranks_without_processes_is_a_copy_and_leaves_the_original_alone():
    batch = random_batch(3, 9, 6)
    accuracy = filled(Accuracy, *batch)
    total = sum_over_ranks(accuracy)
    total.update(*batch)
    assert int(accuracy.count) == 9
    assert int(total.count) == 18


# --------------------------------------------------------------------------------------------------------- accuracy


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), classes=st.integers(6, 20))
def test_accuracy_is_that_of_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    scores = measured(Accuracy, logits, labels)
    for name, k in (("top1", 1), ("top5", 5)):
        theirs = multiclass_accuracy(logits, labels, num_classes=classes, average="micro", top_k=k)
        assert scores[name] == pytest.approx(theirs.item(), abs=1e-6)
        theirs = top_k_accuracy_score(labels, logits, k=k, labels=range(classes))
        assert scores[name] == pytest.approx(theirs, abs=1e-6)
    assert scores["top1"] == pytest.approx(accuracy_score(labels, logits.argmax(1)), abs=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_top5_of_five_classes_or_fewer_is_one(classes):
    assert measured(Accuracy, *random_batch(0, 7, classes))["top5"] == 1.0


def test_the_mean_of_batch_accuracies_is_wrong_on_uneven_batches_and_ours_is_right():
    logits, labels = torch.eye(6)[[0, 0, 0, 0, 0]], torch.tensor([0, 1, 1, 1, 1])
    parts = [measured(Accuracy, logits[part], labels[part])["top1"] for part in (slice(1), slice(1, 5))]
    assert sum(parts) / 2 == pytest.approx(0.5)
    assert measured(Accuracy, logits, labels, [1, 4])["top1"] == pytest.approx(0.2)


def test_bfloat16_logits_give_the_same_accuracy_where_they_hold_the_values():
    generator = torch.Generator().manual_seed(2)
    logits = torch.stack([torch.randperm(9, generator=generator) for _ in range(50)]).float()
    labels = torch.randint(9, (50,), generator=generator)
    assert measured(Accuracy, logits.bfloat16(), labels) == measured(Accuracy, logits, labels)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 12))
def test_ties_are_broken_as_topk_breaks_them_and_alike_in_the_confusion(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 3, (30, classes), generator=generator).bfloat16()
    labels = torch.randint(classes, (30,), generator=generator)
    best = logits.float().topk(min(5, classes)).indices
    scores = measured(Accuracy, logits, labels)
    assert scores["top1"] == pytest.approx((best[:, 0] == labels).double().mean().item())
    assert scores["top5"] == pytest.approx((best == labels[:, None]).any(1).double().mean().item())
    assert scores["top1"] <= scores["top5"]
    diagonal = filled(Confusion, logits, labels).counts.diagonal().sum().item() / 30
    assert diagonal == pytest.approx(scores["top1"])


@pytest.mark.parametrize("poison", NOT_FINITE)
def test_a_row_with_a_non_finite_logit_counts_as_wrong(poison):
    logits, labels = torch.eye(6), torch.arange(6)
    logits[2, 2] = poison  # topk sorts nan and inf first: taken at its word, this row is right
    assert measured(Accuracy, logits, labels)["top1"] == pytest.approx(5 / 6)


# ----------------------------------------------------------------------------------- cross-entropy and Brier score


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), classes=st.integers(2, 20))
def test_loss_is_that_of_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes, spread=3.0)
    loss = measured(CrossEntropy, logits, labels)["loss"]
    assert loss == pytest.approx(perplexity(logits[None].double(), labels[None]).log().item(), abs=1e-6)
    theirs = log_loss(labels, logits.double().softmax(1), labels=range(classes))
    assert loss == pytest.approx(theirs, abs=1e-6)


def test_the_mean_of_batch_losses_is_wrong_on_uneven_batches_and_ours_is_right():
    logits, labels = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
    logits[0, 1] = 10
    right = (math.log(1 + math.exp(10)) + 4 * math.log(2)) / 5
    parts = [measured(CrossEntropy, logits[part], labels[part])["loss"] for part in (slice(1), slice(1, 5))]
    assert abs(sum(parts) / 2 - right) > 1
    assert measured(CrossEntropy, logits, labels, [1, 4])["loss"] == pytest.approx(right, abs=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels = random_batch(2, 200, 10, spread=3.0)
    logits = logits.bfloat16()
    right = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    in_bfloat16 = torch.nn.functional.cross_entropy(logits, labels).item()
    assert abs(in_bfloat16 - right) > 1e-4
    assert measured(CrossEntropy, logits, labels)["loss"] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize("poison", NOT_FINITE)
def test_rows_with_non_finite_logits_are_counted(poison):
    logits, labels = random_batch(3, 8, 6)
    logits[2, 4] = logits[5, 1] = logits[5, 2] = poison
    assert measured(CrossEntropy, logits, labels, [3, 5])["nonfinite_logits"] == 2


def test_finite_logits_however_large_are_not_counted():
    scores = measured(CrossEntropy, torch.tensor([[3e38, -3e38], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert scores["nonfinite_logits"] == 0
    assert math.isfinite(scores["loss"])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(2, 60), classes=st.integers(2, 12))
def test_brier_score_is_that_of_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    probability = logits.double().softmax(1).numpy()
    theirs = brier_score_loss(labels.numpy(), probability, labels=list(range(classes)), scale_by_half=False)
    assert measured(BrierScore, logits, labels)["brier_score"] == pytest.approx(theirs, abs=1e-6)
    assert 0 <= theirs <= 2


def test_the_worst_brier_score_is_two_and_the_best_none():
    sure = 100 * torch.eye(3)
    assert measured(BrierScore, sure, torch.arange(3))["brier_score"] == pytest.approx(0, abs=1e-12)
    assert measured(BrierScore, sure, torch.tensor([1, 2, 0]))["brier_score"] == pytest.approx(2, abs=1e-12)


# ------------------------------------------------------------------------------------------------ calibration error


def calibration_error(logits, labels, sizes=None):
    return measured(CalibrationError, logits, labels, sizes)["calibration_error"]


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
    ours = calibration_error(logits, labels)
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
    assert calibration_error(logits, labels) == pytest.approx(abs(1 - (1 + confidence)) / 2, abs=1e-6)
    apart = multiclass_calibration_error(logits.softmax(1), labels, num_classes=2, n_bins=15)
    assert apart.item() == pytest.approx(confidence / 2, abs=1e-6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # with 2 bins, 0.5 stands on the edge: one wrong at 0.5, one right in the bin above
    error = CalibrationError(2, bins=2)
    error.update(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert error.confidence.tolist() == [0.5, 0.0]


def test_the_mean_of_batch_errors_is_wrong_and_ours_is_right():
    logits, labels = random_batch(2, 40, 7)
    naive = np.mean([calibration_error(logits[:3], labels[:3]), calibration_error(logits[3:], labels[3:])])
    assert abs(naive - slow_calibration_error(logits, labels)) > 0.01
    assert calibration_error(logits, labels, [3, 37]) == pytest.approx(slow_calibration_error(logits, labels), abs=1e-6)


def test_bfloat16_logits_give_the_calibration_error_of_float32():
    logits, labels = random_batch(3, 100, 9)
    logits = logits.bfloat16()
    assert calibration_error(logits, labels) == pytest.approx(slow_calibration_error(logits, labels), abs=1e-6)


def test_a_model_as_sure_as_it_is_right_has_no_error():
    logits = torch.tensor([[math.log(3.0), 0.0]]).expand(4, 2)  # says 75 %
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(logits, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.75, abs=1e-6)


def test_what_each_bin_holds_is_what_the_error_is_made_of():
    logits, labels = random_batch(5, 200, 4, spread=3.0)
    error = CalibrationError(4, bins=10)
    error.update(logits, labels)
    bins = error.reliability()
    confidence, predicted = logits.softmax(1).max(1)
    where = torch.ceil(confidence * 10).long() - 1  # bins (m/10, (m+1)/10]
    for bin_number in range(10):
        inside = where == bin_number
        assert bins["count"][bin_number] == int(inside.sum())
        assert bins["hits"][bin_number] == int((predicted == labels)[inside].sum())
        assert bins["confidence"][bin_number] == pytest.approx(float(confidence[inside].sum()), abs=1e-4)
    gaps = zip(bins["hits"], bins["confidence"], strict=True)
    found = dict(error.compute())["calibration_error"]
    assert found == pytest.approx(sum(abs(right - sure) for right, sure in gaps) / 200, abs=1e-9)


# -------------------------------------------------------------------------------------------------------- confusion


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), classes=st.integers(2, 12))
def test_counts_and_class_accuracy_are_those_of_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    confusion = filled(Confusion, logits, labels)
    predicted = logits.argmax(1)
    assert torch.equal(confusion.counts, multiclass_confusion_matrix(logits, labels, num_classes=classes))
    theirs = confusion_matrix(labels, predicted, labels=range(classes))
    assert np.array_equal(confusion.counts.numpy(), theirs)

    ours = dict(confusion.compute())["per_class_accuracy"]
    theirs = recall_score(labels, predicted, labels=range(classes), average=None, zero_division=np.nan)
    assert ours == pytest.approx(list(theirs), abs=1e-6, nan_ok=True)
    theirs = multiclass_recall(logits, labels, num_classes=classes, average=None)
    assert [0 if math.isnan(a) else a for a in ours] == pytest.approx(theirs.tolist(), abs=1e-6)


def test_rows_are_the_truth_and_columns_the_prediction():
    confusion = filled(Confusion, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([2]))
    assert confusion.counts[2, 1] == 1
    assert confusion.counts.sum() == 1


def test_a_class_without_samples_has_no_accuracy():
    scores = measured(Confusion, torch.eye(3)[[0, 1]], torch.tensor([0, 0]))
    assert scores["per_class_accuracy"] == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)


def test_a_row_with_a_non_finite_logit_predicts_nothing_and_counts_as_wrong_for_its_class():
    logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
    logits[0, 0] = math.nan
    confusion = filled(Confusion, logits, labels)
    assert confusion.counts.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    scores = dict(confusion.compute())
    assert scores["per_class_accuracy"] == pytest.approx([0.0, 1.0, math.nan], nan_ok=True)
