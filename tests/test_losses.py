"""Losses and accuracy of a mixed batch, against dense labels in slow float64; and a loss that must be rejected."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transmix import MixedBCE, MixedCrossEntropy, attention_labels, cutmix, mixed_accuracy, mixup

CLASSES = 5


def a_batch(size=3, kind="elem", labels="classes", seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, 8, 12, generator=rng)
    classes = torch.arange(size) % CLASSES
    given = classes if labels == "classes" else torch.rand(size, CLASSES, generator=rng)
    if labels == "distributions":
        given = given / given.sum(1, keepdim=True)
    if kind == "box":
        mixed = attention_labels(cutmix(images, given, (0, 0, 4, 8)), torch.rand(size, 6, generator=rng))
    else:
        mixed = mixup(images, given, torch.linspace(0.1, 0.9, size) if size > 1 else 0.3)
    return torch.randn(size, CLASSES, generator=rng), mixed


def dense_targets(mixed, smoothing, turned=False):
    """(B, K) float64, one row at a time."""
    labels = mixed.labels if mixed.labels.is_floating_point() else F.one_hot(mixed.labels, CLASSES)
    smooth = labels.double().numpy() * (1 - smoothing) + smoothing / CLASSES
    rows = []
    for row, (lam, partner) in enumerate(zip(mixed.lam.double().tolist(), mixed.partner.tolist(), strict=True)):
        weight = 1 - lam if turned else lam
        rows.append(weight * smooth[row] + (1 - weight) * smooth[partner])
    return np.array(rows)


def cross_entropy_by_row(logits, mixed, smoothing):
    losses = []
    for row, target in zip(logits.double().numpy(), dense_targets(mixed, smoothing), strict=True):
        top = row.max()
        log_softmax = row - top - np.log(np.exp(row - top).sum())
        losses.append(-(target * log_softmax).sum())
    return np.array(losses)


def binary_cross_entropy_by_row(logits, targets):
    chance = 1 / (1 + np.exp(-logits.double().numpy()))
    return -(targets * np.log(chance) + (1 - targets) * np.log(1 - chance)).mean(1)


def reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.array}[reduction](losses)


every_batch = pytest.mark.parametrize("size", [1, 3, 4])
every_kind = pytest.mark.parametrize("kind", ["elem", "box"])
every_smoothing = pytest.mark.parametrize("smoothing", [0.0, 0.1])
every_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
all_labels = pytest.mark.parametrize("labels", ["classes", "distributions"])


def assert_is_cross_entropy(make_loss, size, kind, labels, smoothing, reduction):
    logits, mixed = a_batch(size, kind, labels)
    expected = reduced(cross_entropy_by_row(logits, mixed, smoothing), reduction)
    loss = make_loss(smoothing, reduction)(logits, mixed)
    assert loss.dtype == torch.float32
    assert loss.shape == expected.shape
    assert np.allclose(loss, expected, atol=1e-6, rtol=1e-5)


@every_batch
@every_kind
@all_labels
@every_smoothing
@every_reduction
def test_cross_entropy_equals_dense_labels_in_float64(size, kind, labels, smoothing, reduction):
    assert_is_cross_entropy(MixedCrossEntropy, size, kind, labels, smoothing, reduction)


def reduced_before_lam(smoothing, reduction):
    """What a widely used toolbox does: reduce each cross-entropy over the batch, then weigh by lam."""

    def loss(logits, mixed):
        own = F.cross_entropy(logits, mixed.labels, label_smoothing=smoothing)
        partners = F.cross_entropy(logits, mixed.labels[mixed.partner], label_smoothing=smoothing)
        losses = mixed.lam * own + (1 - mixed.lam) * partners
        return torch.tensor(reduced(losses.numpy(), reduction))

    return loss


def with_lam_turned(smoothing, reduction):
    def loss(logits, mixed):
        return MixedCrossEntropy(smoothing, reduction)(logits, replace(mixed, lam=1 - mixed.lam))

    return loss


def smoothed_twice(smoothing, reduction):
    return MixedCrossEntropy(1 - (1 - smoothing) ** 2, reduction)


WRONG = {
    "reduced before lam": reduced_before_lam,
    "lam turned": with_lam_turned,
    "smoothed twice": smoothed_twice,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@every_reduction
@every_kind
def test_a_wrong_loss_is_rejected(wrong, reduction, kind):
    with pytest.raises(AssertionError):
        assert_is_cross_entropy(wrong, 3, kind, "classes", 0.1, reduction)


@every_kind
def test_a_loss_reduced_before_lam_is_right_only_for_one_lam(kind):
    logits, mixed = a_batch(4, kind)
    mixed = replace(mixed, lam=torch.full((4,), 0.3))
    expected = MixedCrossEntropy(0.1)(logits, mixed)
    assert torch.allclose(reduced_before_lam(0.1, "mean")(logits, mixed), expected, atol=1e-6)


@all_labels
@every_smoothing
def test_cross_entropy_equals_torchs_with_soft_labels(labels, smoothing):
    logits, mixed = a_batch(4, "box", labels)
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(logits, mixed.targets(CLASSES, smoothing), reduction=reduction)
        assert torch.allclose(MixedCrossEntropy(smoothing, reduction)(logits, mixed), expected, atol=1e-5)


@all_labels
@every_smoothing
def test_its_gradient_equals_that_of_dense_labels(labels, smoothing):
    logits, mixed = a_batch(3, "box", labels)
    ours, dense = (logits.clone().requires_grad_() for _ in range(2))
    MixedCrossEntropy(smoothing)(ours, mixed).backward()
    F.cross_entropy(dense, mixed.targets(CLASSES, smoothing)).backward()
    assert torch.allclose(ours.grad, dense.grad, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@all_labels
def test_low_precision_logits_are_summed_in_float32(kind, labels):
    logits, mixed = a_batch(3, "box", labels)
    low = (logits * 20).to(kind)
    expected = cross_entropy_by_row(low, mixed, 0.1)
    for loss in (MixedCrossEntropy(0.1, "none"), MixedBCE(0.1, reduction="none")):
        assert loss(low, mixed).dtype == torch.float32
    assert np.allclose(MixedCrossEntropy(0.1, "none")(low, mixed), expected, rtol=1e-5)
    in_low = F.cross_entropy(low, mixed.targets(CLASSES, 0.1).to(kind), reduction="none")
    assert not np.allclose(in_low.float(), expected, rtol=1e-5)  # the tolerance tells float32 from less


def test_large_logits_do_not_overflow():
    _, mixed = a_batch(3)
    logits = torch.tensor([[1e4, -1e4, 0, 0, 0]] * 3)
    assert torch.isfinite(MixedCrossEntropy(0.1)(logits, mixed))


@every_batch
@pytest.mark.parametrize("labels", ["classes", "several"])
@every_smoothing
@every_reduction
def test_bce_equals_dense_labels_in_float64(size, labels, smoothing, reduction):
    logits, mixed = a_batch(size, "box", labels)
    rows = binary_cross_entropy_by_row(logits, dense_targets(mixed, smoothing))
    expected = rows.sum() * CLASSES if reduction == "sum" else reduced(rows, reduction)
    loss = MixedBCE(smoothing, reduction=reduction)(logits, mixed)
    assert np.allclose(loss, expected, atol=1e-6, rtol=1e-5)
    turned = binary_cross_entropy_by_row(logits, dense_targets(mixed, smoothing, turned=True))
    if size > 1:
        assert not np.allclose(rows, turned, rtol=1e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
def test_bce_over_a_threshold_asks_for_yes_or_no(threshold):
    logits, mixed = a_batch(4, "elem")
    targets = (dense_targets(mixed, 0) > threshold).astype(float)
    expected = binary_cross_entropy_by_row(logits, targets).mean()
    assert np.allclose(MixedBCE(threshold=threshold)(logits, mixed), expected, atol=1e-6)


def test_under_threshold_0_the_label_does_not_say_how_much():
    logits, mixed = a_batch(4, "elem")
    other = replace(mixed, lam=mixed.lam * 0.5 + 0.25)
    assert torch.equal(MixedBCE(threshold=0.0)(logits, mixed), MixedBCE(threshold=0.0)(logits, other))
    assert not torch.allclose(MixedBCE()(logits, mixed), MixedBCE()(logits, other))


def accuracy_by_row(logits, mixed):
    hits = 0.0
    for row in range(len(logits)):
        predicted, lam = int(logits[row].argmax()), float(mixed.lam[row])
        if predicted == int(mixed.labels[row]):
            hits += lam
        if predicted == int(mixed.labels[mixed.partner[row]]):
            hits += 1 - lam
    return hits / len(logits)


@pytest.mark.parametrize("size", [1, 3, 40])
@every_kind
def test_accuracy_equals_a_loop(size, kind):
    logits, mixed = a_batch(size, kind)
    assert abs(float(mixed_accuracy(logits, mixed)) - accuracy_by_row(logits, mixed)) < 1e-6


def test_the_loop_tells_accuracy_from_that_with_lam_turned():
    logits, mixed = a_batch(40)
    logits = F.one_hot(mixed.labels, CLASSES).float()
    mixed = replace(mixed, labels=mixed.labels, lam=torch.full((40,), 0.9))
    turned = mixed_accuracy(logits, replace(mixed, lam=1 - mixed.lam))
    assert abs(float(turned) - accuracy_by_row(logits, mixed)) > 0.1


def test_equal_labels_of_own_and_partner_make_one_whole_hit():
    _, mixed = a_batch(4)
    mixed = replace(mixed, labels=torch.full((4,), 2))
    assert float(mixed_accuracy(F.one_hot(mixed.labels, CLASSES).float(), mixed)) == pytest.approx(1)


REFUSED = {
    "smoothing": (lambda: MixedCrossEntropy(1.0), "smoothing must lie in [0, 1), not 1.0"),
    "negative smoothing": (lambda: MixedBCE(-0.1), "smoothing must lie in [0, 1), not -0.1"),
    "reduction": (
        lambda: MixedCrossEntropy(reduction="average"),
        "reduction must be one of mean, sum, none, not 'average'",
    ),
    "reduction of BCE": (lambda: MixedBCE(reduction=None), "reduction must be one of mean, sum, none, not None"),
    "another batch": (
        lambda: MixedCrossEntropy()(torch.zeros(2, 5), a_batch(3)[1]),
        "logits must be (3, K), not (2, 5)",
    ),
    "another batch, BCE": (lambda: MixedBCE()(torch.zeros(4, 5), a_batch(3)[1]), "logits must be (3, K), not (4, 5)"),
    "three dimensions": (
        lambda: mixed_accuracy(torch.zeros(3, 5, 1), a_batch(3)[1]),
        "logits must be (3, K), not (3, 5, 1)",
    ),
    "classes": (
        lambda: MixedCrossEntropy()(torch.zeros(3, 6), a_batch(3, labels="distributions")[1]),
        "labels have 5 columns, but there are 6 classes",
    ),
    "accuracy of float labels": (
        lambda: mixed_accuracy(torch.zeros(3, 5), a_batch(3, labels="distributions")[1]),
        "mixed_accuracy needs integer labels; float labels have no single class to hit",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(call, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        call()
    assert str(error.value) == text


WEIGHTS = torch.tensor([0.2, 0.7, 1.0, 1.6, 3.0])


@every_kind
@all_labels
@every_smoothing
@every_reduction
def test_class_weights_are_those_of_torchs_loss_for_soft_labels(kind, labels, smoothing, reduction):
    logits, mixed = a_batch(4, kind, labels)
    expected = torch.nn.CrossEntropyLoss(WEIGHTS, reduction=reduction)(logits, mixed.targets(CLASSES, smoothing))
    assert torch.allclose(MixedCrossEntropy(smoothing, reduction, WEIGHTS)(logits, mixed), expected, atol=1e-5)


@every_smoothing
def test_class_weights_weigh_each_labels_part_by_its_own_class(smoothing):
    logits, mixed = a_batch(4, "box")
    torchs = torch.nn.CrossEntropyLoss(WEIGHTS, reduction="none", label_smoothing=smoothing)
    own, partners = torchs(logits, mixed.labels), torchs(logits, mixed.labels[mixed.partner])
    expected = mixed.lam * own + (1 - mixed.lam) * partners
    assert torch.allclose(MixedCrossEntropy(smoothing, "none", WEIGHTS)(logits, mixed), expected, atol=1e-5)
    turned = MixedCrossEntropy(smoothing, "none", WEIGHTS.flip(0))(logits, mixed)
    assert not torch.allclose(turned, expected, atol=1e-2)


@all_labels
@every_smoothing
def test_equal_class_weights_give_the_loss_without(labels, smoothing):
    logits, mixed = a_batch(3, "elem", labels)
    without = MixedCrossEntropy(smoothing)(logits, mixed)
    assert torch.allclose(MixedCrossEntropy(smoothing, class_weights=torch.ones(CLASSES))(logits, mixed), without)


def test_with_class_weights_parts_of_a_batch_have_the_mean_loss_of_the_whole():
    (logits, mixed), loss = a_batch(4, "box"), MixedCrossEntropy(0.1, class_weights=WEIGHTS)
    alone = MixedCrossEntropy(0.1, "none", WEIGHTS)(logits, mixed)
    assert torch.allclose(loss(logits, mixed), (alone[:1].mean() + 3 * alone[1:].mean()) / 4)


def test_a_label_that_is_none_weighs_nothing_whatever_its_classes_weights():
    logits, mixed = a_batch(3, "elem")
    lost = replace(mixed, labels=torch.tensor([0, -100, 2]))
    expected = (WEIGHTS * lost.targets(CLASSES, 0.1) * -logits.log_softmax(1)).sum(1)
    assert torch.allclose(MixedCrossEntropy(0.1, "none", WEIGHTS)(logits, lost), expected, atol=1e-6)


def test_class_weights_of_another_number_of_classes_are_refused(says):
    logits, mixed = a_batch(3)
    with says(ValueError, "class_weights must be (5,), not (4,)"):
        MixedCrossEntropy(class_weights=torch.ones(4))(logits, mixed)
