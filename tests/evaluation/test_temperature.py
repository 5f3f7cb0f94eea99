import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from transmix.evaluation.confidence import COLDEST, HOTTEST, Temperature


def random_batch(seed, samples, classes, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(samples, classes, generator=generator)
    chance = (logits / spread).double().softmax(1)  # the labels that a model with logits / spread would be right about
    return logits, torch.multinomial(chance, 1, generator=generator)[:, 0]


def fitted(logits, labels, sizes=None):
    temperature = Temperature(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        temperature.update(some_logits, some_labels)
    return temperature.fit()


def loss_at(temperature, logits, labels):
    return F.cross_entropy(logits.double() / temperature, labels).item()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.2, 20), classes=st.integers(2, 12))
def test_the_temperature_is_the_minimum_that_scipy_finds(seed, spread, classes):
    logits, labels = random_batch(seed, 300, classes, spread)
    ours = fitted(logits, labels)
    theirs = minimize_scalar(
        lambda log: loss_at(math.exp(log), logits, labels),
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert loss_at(ours, logits, labels) <= theirs.fun + 1e-9
    if 0.02 < ours < 50:
        assert ours == pytest.approx(math.exp(theirs.x), rel=1e-3)


def test_a_known_temperature_is_recovered():
    logits, labels = random_batch(0, 20_000, 5, spread=3.0)
    assert fitted(logits, labels) == pytest.approx(3.0, rel=0.03)


def test_it_is_the_temperature_of_the_published_search():
    """Halving between 0.2 and 5, as tune_temp of hendrycks/natural-adv-examples does."""
    logits, labels = random_batch(5, 400, 6, spread=2.0)
    low, high = 0.2, 5.0
    while high - low > 1e-9:
        middle = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
        F.cross_entropy(logits.double() / middle, labels).backward()
        low, high = (low, middle.item()) if middle.grad > 0 else (middle.item(), high)
    assert fitted(logits, labels) == pytest.approx(low, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 40),
    classes=st.integers(2, 6),
    spread=st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e4]),
)
def test_it_never_raises_the_loss_it_is_fitted_on_nor_changes_the_answer(seed, samples, classes, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    temperature = fitted(logits, labels)
    assert COLDEST <= temperature <= HOTTEST
    assert loss_at(temperature, logits, labels) <= loss_at(1, logits, labels) * (1 + 1e-12) + 1e-12
    assert torch.equal(logits.argmax(1), (logits / temperature).argmax(1))


def test_batches_and_their_order_do_not_matter():
    logits, labels = random_batch(1, 100, 6, spread=2.0)
    order = torch.from_numpy(np.random.default_rng(0).permutation(100))
    whole = fitted(logits, labels)
    assert fitted(logits, labels, [1, 60, 39]) == pytest.approx(whole, rel=1e-9)
    assert fitted(logits[order], labels[order]) == pytest.approx(whole, rel=1e-9)


def test_where_every_answer_is_right_it_is_the_coldest_and_where_logits_mislead_the_hottest():
    labels = torch.arange(8) % 4
    assert fitted(torch.eye(4)[labels], labels) == COLDEST
    assert fitted(torch.eye(4)[(labels + 1) % 4], labels) == HOTTEST


def test_it_is_nan_without_samples():
    assert math.isnan(Temperature(4).fit())


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_it_is_nan_with_a_logit_that_is_not_finite(broken):
    assert math.isnan(fitted(torch.tensor([[1.0, broken], [0.0, 1.0]]), torch.tensor([0, 1])))
