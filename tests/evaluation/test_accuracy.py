import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from transmix.evaluation.accumulate import sum_over_ranks
from transmix.evaluation.accuracy import Accuracy


def random_batch(seed, samples, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def measured(logits, labels, sizes=None):
    accuracy = Accuracy(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        accuracy.update(some_logits, some_labels)
    return dict(accuracy.compute())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), classes=st.integers(6, 20))
def test_accuracy_is_that_of_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    scores = measured(logits, labels)
    for name, k in (("top1", 1), ("top5", 5)):
        theirs = multiclass_accuracy(logits, labels, num_classes=classes, average="micro", top_k=k)
        assert scores[name] == pytest.approx(theirs.item(), abs=1e-6)
        theirs = top_k_accuracy_score(labels, logits, k=k, labels=range(classes))
        assert scores[name] == pytest.approx(theirs, abs=1e-6)
    assert scores["top1"] == pytest.approx(accuracy_score(labels, logits.argmax(1)), abs=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_top5_of_five_classes_or_fewer_is_one(classes):
    assert measured(*random_batch(0, 7, classes))["top5"] == 1.0


def test_uneven_batches_and_an_empty_one_give_the_result_of_one_batch():
    logits, labels = random_batch(1, 20, 8)
    assert measured(logits, labels, [1, 12, 0, 7]) == measured(logits, labels)


def test_the_mean_of_batch_means_is_wrong_on_uneven_batches_and_ours_is_right():
    logits = torch.eye(6)[[0, 0, 0, 0, 0]]
    labels = torch.tensor([0, 1, 1, 1, 1])
    naive = (measured(logits[:1], labels[:1])["top1"] + measured(logits[1:], labels[1:])["top1"]) / 2
    assert naive == pytest.approx(0.5)
    assert measured(logits, labels, [1, 4])["top1"] == pytest.approx(0.2)


def test_bfloat16_logits_give_the_same_accuracy_where_they_hold_the_values():
    generator = torch.Generator().manual_seed(2)
    logits = torch.stack([torch.randperm(9, generator=generator) for _ in range(50)]).float()
    labels = torch.randint(9, (50,), generator=generator)
    assert measured(logits.bfloat16(), labels) == measured(logits, labels)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 12))
def test_ties_are_broken_as_topk_breaks_them(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 3, (30, classes), generator=generator).bfloat16()
    labels = torch.randint(classes, (30,), generator=generator)
    best = logits.float().topk(min(5, classes)).indices
    scores = measured(logits, labels)
    assert scores["top1"] == pytest.approx((best[:, 0] == labels).double().mean().item())
    assert scores["top5"] == pytest.approx((best == labels[:, None]).any(1).double().mean().item())
    assert scores["top1"] <= scores["top5"]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_a_non_finite_logit_counts_as_wrong(poison):
    logits, labels = torch.eye(6), torch.arange(6)
    logits[2, 2] = poison  # topk sorts nan and inf first: taken at its word, this row is right
    assert measured(logits, labels)["top1"] == pytest.approx(5 / 6)


def test_summing_over_ranks_without_processes_is_a_copy_and_leaves_the_original_alone():
    logits, labels = random_batch(3, 9, 6)
    accuracy = Accuracy(6)
    accuracy.update(logits, labels)
    total = sum_over_ranks(accuracy)
    total.update(logits, labels)
    assert int(accuracy.count) == 9
    assert int(total.count) == 18


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
def test_wrong_shapes_and_types_are_refused(logits, labels, error):
    with pytest.raises(error, match="expected"):
        Accuracy(6).update(logits, labels)
