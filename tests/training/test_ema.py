"""The average of the weights follows its formula, and neither it nor the model disturbs the other."""

import numpy as np
import pytest
import torch
from torch import nn

from transmix.training.optimizer import WeightAverage, a_copy

ONE, ZERO = torch.tensor(1.0), torch.tensor(0.0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, (2, 3)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4 * 5, 7))


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def change(model, generator):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def oracle(steps, decay, warmup=False):
    """Average of a list of (weights, went), entry by entry in float64."""
    average, updates = [weight.numpy().astype(np.float64) for weight in steps[0][0]], 0
    for step, went in steps[1:]:
        if went:
            kept = min(decay, (1 + updates) / (10 + updates)) if warmup else decay
            average = [
                kept * old + (1 - kept) * new.numpy().astype(np.float64) for old, new in zip(average, step, strict=True)
            ]
            updates += 1
    return average


def close(model, expected):
    return all(np.allclose(a.numpy(), b, atol=1e-5, rtol=0) for a, b in zip(weights(model), expected, strict=True))


def follow(model, average, went):
    """Change the model and update the average once for each entry; return (weights, went) from the start on."""
    generator = torch.Generator().manual_seed(1)
    steps = [(weights(model), 1)]
    for one in went:
        change(model, generator)
        average.update(ONE if one else ZERO)
        steps.append((weights(model), one))
    return steps


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.99996])
def test_with_warm_up_the_average_is_that_of_a_plain_loop_that_counts_updates_alone(model, decay):
    average = WeightAverage(model, decay, a_copy(model))
    steps = follow(model, average, (1, 1, 0, 0, 1, 0, 1, 1, 1))
    assert close(average.model, oracle(steps, decay, warmup=True))
    assert int(average.updates) == 6
    if decay:
        assert not close(average.model, oracle(steps, decay))
        every_step = [(step, 1 if went else 0) for step, went in steps]
        skipped_counted = oracle([(step, went) for step, went in every_step if went] + [every_step[-1]], decay, True)
        assert not close(average.model, skipped_counted)


def test_after_seventy_steps_of_a_long_average_little_is_left_of_the_random_start():
    ones = nn.Linear(3, 2)
    with torch.no_grad():
        for weight in ones.parameters():
            weight.fill_(1.0)
    left = {}
    for warmup in (True, False):
        average = WeightAverage(ones, 0.99996, a_copy(ones), warmup=warmup)
        zeros = [weight.detach().clone() for weight in ones.parameters()]
        with torch.no_grad():
            for weight in ones.parameters():
                weight.zero_()
            for _ in range(70):
                average.update(ONE)
            for weight, before in zip(ones.parameters(), zeros, strict=True):
                weight.copy_(before)
        left[warmup] = float(average.model.weight[0, 0])
    assert left[True] < 1e-6
    assert left[False] > 0.997


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_the_average_is_that_of_a_plain_loop(model, decay):
    average = WeightAverage(model, decay, a_copy(model), warmup=False)
    steps = follow(model, average, (1, 1, 0, 1, 0, 1))
    assert close(average.model, oracle(steps, decay))
    assert not close(average.model, oracle(steps, 0.6))
    assert not close(average.model, oracle([(step, 1) for step, _ in steps[:-1]], decay))


def test_a_step_that_was_held_back_changes_no_weight(model):
    average = WeightAverage(model, 0.5, a_copy(model), warmup=False)
    before = weights(average.model)
    change(model, torch.Generator().manual_seed(1))
    average.update(ZERO)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(average.model), strict=True))
    average.update(ONE)
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(average.model), strict=True))


def test_the_models_weights_and_their_gradients_are_untouched(model):
    average = WeightAverage(model, 0.5, a_copy(model))
    change(model, torch.Generator().manual_seed(1))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    average.update(ONE)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert all(bool((p.grad == 1).all()) and p.requires_grad for p in model.parameters())
    assert model.training


def test_the_average_has_memory_of_its_own(model):
    average = WeightAverage(model, 0.5, a_copy(model))
    mine = {tensor.data_ptr() for tensor in average.model.state_dict().values()}
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not mine & theirs
    before = weights(model)
    for parameter in average.model.parameters():
        parameter.fill_(0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_the_average_is_for_evaluation_only(model):
    average = WeightAverage(model, 0.5, a_copy(model))
    assert not any(module.training for module in average.model.modules())
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_buffers_are_the_models_own_and_not_averaged(model):
    average = WeightAverage(model, 0.9, a_copy(model))
    for _ in range(3):
        model(torch.randn(5, 3, 5, 7))
        average.update(ONE)
    norm, averaged = model[1], average.model[1]
    assert bool((norm.running_mean != 0).any())
    assert torch.equal(averaged.running_mean, norm.running_mean)
    assert torch.equal(averaged.running_var, norm.running_var)
    assert averaged.num_batches_tracked == norm.num_batches_tracked == 3
    model(torch.randn(5, 3, 5, 7))
    assert not torch.equal(averaged.running_mean, norm.running_mean)  # until the next update


def test_weights_shared_between_layers_stay_shared():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    average = WeightAverage(tied, 0.25, a_copy(tied), warmup=False)
    start = tied[0].weight.detach().clone()
    change(tied, torch.Generator().manual_seed(1))
    average.update(ONE)
    assert average.model[0].weight is average.model[1].weight
    assert torch.allclose(average.model[0].weight, 0.25 * start + 0.75 * tied[0].weight, atol=1e-6)
