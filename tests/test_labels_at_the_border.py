"""Labels that are none: -100, NaN, one logit, output objects, partners out of range; and float64. Oracles are loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transmix import MixedBCE, MixedCrossEntropy, Mixer, mixed_accuracy, mixup
from transmix.mixing.mixed import Mixed

B, K = 5, 4
rng = torch.Generator().manual_seed(0)
LOGITS = torch.randn(B, K, generator=rng)
LAM = torch.tensor([0.3, 1.0, 0.6, 0.0, 0.5])
PARTNER = torch.tensor([4, 1, 3, 2, 0])


def record(labels, lam=LAM, partner=PARTNER, images=None):
    images = torch.zeros(len(labels), 3, 8, 12) if images is None else images
    return Mixed(images, labels, partner, lam, lam)


def loop(logits, labels, lam, partner, smoothing=0.0):
    """Cross-entropy of the labels that there are, over their weights: F.cross_entropy's mean with ignore_index."""
    logits = logits.double().numpy()
    total, weights = 0.0, 0.0
    each = []
    for row in range(len(logits)):
        log_p = logits[row] - np.log(np.exp(logits[row]).sum())
        loss = 0.0
        for label, weight in ((labels[row], lam[row]), (labels[partner[row]], 1 - lam[row])):
            if int(label) == -100:
                continue
            target = np.full(logits.shape[1], smoothing / logits.shape[1])
            target[int(label)] += 1 - smoothing
            loss -= float(weight) * float((target * log_p).sum())
            weights += float(weight)
        each.append(loss)
        total += loss
    return total / weights, each


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3, 1], [0, -100, 2, 3, 1], [-100, 1, -100, 3, 1], [0, -100, -100, -100, 2]]
)
def test_a_row_without_a_label_adds_nothing(labels, smoothing):
    labels = torch.tensor(labels)
    mixed = record(labels)
    wanted, each = loop(LOGITS, labels, LAM, PARTNER, smoothing)
    assert MixedCrossEntropy(smoothing)(LOGITS, mixed).item() == pytest.approx(wanted, abs=1e-6)
    assert MixedCrossEntropy(smoothing, reduction="none")(LOGITS, mixed).tolist() == pytest.approx(each, abs=1e-6)
    assert MixedCrossEntropy(smoothing, reduction="sum")(LOGITS, mixed).item() == pytest.approx(sum(each), abs=1e-5)
    dense = mixed.targets(K, smoothing)
    assert (dense[labels == -100][LAM[labels == -100] == 1] == 0).all()
    assert float(-(dense * LOGITS.log_softmax(1)).sum()) == pytest.approx(sum(each), abs=1e-5)


def test_unmixed_it_is_torchs_ignore_index():
    labels = torch.tensor([0, -100, 2, -100, 1])
    mixed = record(labels, torch.ones(B))
    assert MixedCrossEntropy(0.1)(LOGITS, mixed).item() == pytest.approx(
        F.cross_entropy(LOGITS, labels, label_smoothing=0.1).item(), abs=1e-6
    )
    predicted = LOGITS.argmax(1)
    hits = [float(predicted[row] == labels[row]) for row in (0, 2, 4)]
    assert mixed_accuracy(LOGITS, mixed).item() == pytest.approx(np.mean(hits))


def test_the_gradient_of_a_row_without_a_label_is_zero():
    logits = LOGITS.clone().requires_grad_()
    labels = torch.tensor([0, -100, 2, 3, 1])
    MixedCrossEntropy(0.1)(logits, record(labels)).backward()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[[0, 2, 3, 4]].abs().sum(1) > 0).all()


@pytest.mark.parametrize("wrong", [-1, -101, 4, 7])
def test_a_class_that_is_none_is_an_error_with_its_number(wrong):
    mixed = record(torch.tensor([0, wrong, 2, 3, 1]))
    for loss in (MixedCrossEntropy(), MixedBCE()):
        with pytest.raises(ValueError, match=rf"^class {wrong} is none of the 4 that the model predicts \(0 to 3\)"):
            loss(LOGITS, mixed)


def test_an_own_nan_stays_and_a_partners_leaves_unmixed_rows_alone():
    labels = torch.rand(B, K, generator=torch.Generator().manual_seed(1))
    labels[4, 1] = labels[2, 3] = math.nan  # 4 is the partner of 0, 2 that of 3
    lam = torch.tensor([1.0, 1.0, 0.6, 1.0, 0.5])
    targets = record(labels, lam).targets(K)
    for row in (0, 1, 3):
        assert torch.equal(targets[row], labels[row])
    assert targets[2].isnan().tolist() == [False, False, False, True]
    assert targets[4].isnan().tolist() == [False, True, False, False]
    full = record(labels, torch.zeros(B)).targets(K)  # the partner's label alone
    assert torch.equal(full[2], labels[3])
    for loss in (MixedBCE(reduction="none"), MixedCrossEntropy(reduction="none")):
        assert loss(LOGITS, record(labels, lam)).isfinite().tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("lam", [1.0, torch.tensor([1.0, 0.5, 1.0])])
def test_a_partners_nan_pixels_leave_unmixed_rows_alone(lam):
    images = torch.rand(3, 3, 4, 6)
    images[2] = math.nan
    mixed = mixup(images, torch.arange(3), lam)
    assert torch.equal(mixed.images[0], images[0])


def test_mixing_row_by_row_keeps_nan_out_of_rows_that_are_not_mixed():
    images = torch.rand(9, 3, 4, 6)
    images[8] = math.inf
    mixer = Mixer(cutmix_alpha=0, prob=0.5, mode="elem", generator=torch.Generator().manual_seed(0))
    seen = 0
    for _ in range(20):
        mixed = mixer(images, torch.arange(9))
        if mixed.lam[0] == 1:
            seen += 1
            assert torch.equal(mixed.images[0], images[0])
    assert 0 < seen < 20


class Output:
    def __init__(self):
        self.logits = LOGITS


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Output(), "logits must be a tensor, got Output: pass .logits"),
        ((LOGITS, LOGITS), "logits must be a tensor, got tuple: pass the item that holds them"),
        ({"logits": LOGITS}, "logits must be a tensor, got dict: pass the item that holds them"),
    ],
)
def test_an_output_object_is_an_error_that_says_what_to_pass(given, text):
    mixed = record(torch.tensor([0, 1, 2, 3, 1]))
    for use in (MixedCrossEntropy(), MixedBCE(), mixed_accuracy):
        with pytest.raises(TypeError) as error:
            use(given, mixed)
        assert str(error.value) == text


def test_hugging_faces_output_is_named():
    transformers = pytest.importorskip("transformers")
    output = transformers.modeling_outputs.ImageClassifierOutput(logits=LOGITS)
    with pytest.raises(
        TypeError, match=r"got ImageClassifierOutput: pass .*logits|got ImageClassifierOutput: pass the"
    ):
        MixedCrossEntropy()(output, record(torch.tensor([0, 1, 2, 3, 1])))


ONE_LOGIT = (
    "one logit has a softmax of 1 whatever the model says: the loss would be 0 and train nothing. Use MixedBCE with "
    "labels (B, 1) of a float type, or give the model two classes"
)


def test_one_logit_is_refused_by_cross_entropy_and_taken_by_bce():
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0]])
    for given in (labels, torch.zeros(B, dtype=torch.int64)):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
            MixedCrossEntropy()(LOGITS[:, :1], record(given))
        assert str(error.value) == ONE_LOGIT
    wanted = 0.0
    for row in range(B):
        target = LAM[row] * labels[row, 0] + (1 - LAM[row]) * labels[PARTNER[row], 0]
        p = 1 / (1 + math.exp(-LOGITS[row, 0]))
        wanted -= float(target * math.log(p) + (1 - target) * math.log(1 - p)) / B
    assert MixedBCE()(LOGITS[:, :1], record(labels)).item() == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(ValueError, match=r"one logit needs labels \(B, 1\) of a float type"):
        MixedBCE()(LOGITS[:, :1], record(torch.tensor([0, 1, 0, 1, 1])))


def test_classes_in_a_column_say_what_to_pass():
    with pytest.raises(ValueError, match=r"pass labels.squeeze\(1\)"):
        mixup(torch.rand(3, 3, 4, 4), torch.tensor([[0], [1], [2]]), 0.5)


def test_yes_and_no_are_weights():
    labels = torch.tensor([[True, False], [False, True], [True, True]])
    mixed = mixup(torch.rand(3, 3, 4, 4), labels, 0.25, torch.tensor([1, 2, 0]))
    assert torch.equal(mixed.targets(2), 0.25 * labels.float() + 0.75 * labels.float()[[1, 2, 0]])


@pytest.mark.parametrize(("partner", "row"), [([4, -1, 3, 2, 0], -1), ([4, 5, 3, 2, 0], 5)])
def test_a_partner_that_is_no_row_is_an_error(partner, row):
    for make in (
        lambda p: record(torch.arange(B) % K, partner=p),
        lambda p: mixup(torch.rand(B, 3, 4, 4), torch.arange(B), 0.5, p),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
            make(torch.tensor(partner))
        assert str(error.value) == (
            f"partner holds row {row}, but the batch has rows 0 to 4. A row without a partner is its own; "
            f"partner=None if no row has one"
        )


def test_no_partner_is_none_or_the_row_itself():
    labels = torch.tensor([0, 1, 2, 3, 1])
    nobody, itself = record(labels, partner=None), record(labels, partner=torch.arange(B))
    for mixed in (nobody, itself):
        assert torch.allclose(mixed.targets(K), F.one_hot(labels, K).float())
        assert MixedCrossEntropy()(LOGITS, mixed).item() == pytest.approx(F.cross_entropy(LOGITS, labels).item())


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2, 3, 1]), torch.rand(B, K)])
@pytest.mark.parametrize("loss", [MixedCrossEntropy(0.1), MixedBCE(0.1), MixedBCE(threshold=0.2)])
def test_a_float64_model_gets_a_float64_loss_and_half_gets_float32(loss, labels):
    mixed = record(labels)
    full = loss(LOGITS.double(), mixed)
    assert full.dtype == torch.float64
    assert full.item() == pytest.approx(loss(LOGITS, mixed).item(), abs=1e-6)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        assert loss(LOGITS.to(kind), mixed).dtype == torch.float32


def test_an_empty_batch_is_an_error():
    with pytest.raises(ValueError, match=r"^the batch is empty: there is nothing to mix$"):
        Mixer()(torch.rand(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("alpha", [1e-8, 1e-5, 1e-3, 0.01, 0.04])
def test_a_small_alpha_is_not_skewed(alpha):
    """Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)), and symmetric."""
    mixer = Mixer(mixup_alpha=alpha, cutmix_alpha=0, generator=torch.Generator().manual_seed(0))
    lam = np.array([mixer.draw(2, 8, 8).lam[0] for _ in range(4000)])
    assert ((lam >= 0) & (lam <= 1)).all()
    assert lam.mean() == pytest.approx(0.5, abs=0.03)
    assert lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.02)


def test_pythons_own_draw_would_be_skewed():
    import random

    draws = [random.Random(seed).betavariate(1e-3, 1e-3) for seed in range(2000)]
    assert np.mean(draws) < 0.42


def test_an_infinite_alpha_is_its_limit():
    mixer = Mixer(mixup_alpha=math.inf, cutmix_alpha=0)
    assert mixer.draw(2, 8, 8).lam == (0.5,)
    boxed = Mixer(mixup_alpha=0, cutmix_alpha=math.inf, generator=torch.Generator().manual_seed(0))
    (box,) = boxed.draw(2, 100, 100).boxes
    assert box[2] - box[0] <= 70


REFUSED = {
    "nan alpha": ({"mixup_alpha": math.nan}, "alpha must not be negative: mixup nan, cutmix 1.0"),
    "one number": ({"cutmix_minmax": (0.3,)}, "cutmix_minmax must be two rising fractions in [0, 1], not (0.3,)"),
    "three numbers": (
        {"cutmix_minmax": (0.1, 0.2, 0.3)}, "cutmix_minmax must be two rising fractions in [0, 1], not (0.1, 0.2, 0.3)"
    ),
    "nan minmax": (
        {"cutmix_minmax": (0.1, math.nan)}, "cutmix_minmax must be two rising fractions in [0, 1], not (0.1, nan)"
    ),
    "nan prob": ({"prob": math.nan}, "prob is a probability, not nan"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "text"), REFUSED.values(), ids=REFUSED)
def test_settings_that_mean_nothing_are_refused(settings, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        Mixer(**settings)
    assert str(error.value) == text
