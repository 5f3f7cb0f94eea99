"""The counter of live bytes against cases whose memory can be told with a pencil; N floats are 4 N bytes."""

import gc

import pytest
import torch

N = 1000


@pytest.fixture
def peak(script):
    memory = script("memory")
    return lambda run: memory.peak_bytes(run, "cpu") / (4 * N)


def test_a_tensor_counts_while_it_lives(script):
    with script("memory").LiveBytes() as counted:
        first = torch.ones(N)
        assert counted.live == 4 * N
        second = first + 1
        assert counted.live == 8 * N
        del first
        assert counted.live == 4 * N
        del second
    assert (counted.live, counted.peak) == (0, 8 * N)


def test_views_and_in_place_results_add_nothing(peak):
    def run():
        values = torch.ones(N)
        view = values.view(10, -1)[2:5].t()
        values.add_(1).mul_(2)
        return view

    assert peak(run) == 1


def test_what_was_there_before_does_not_count(peak):
    there = torch.ones(N)
    assert peak(lambda: there[5:].view(-1)) == 0
    assert peak(lambda: there.add_(1)) == 0
    assert peak(lambda: there + 1) == 1


def test_temporaries_count_until_they_are_freed(peak):
    values = torch.ones(N)
    assert peak(lambda: ((values + 1) * 2) - 3) == 2  # never more than one operand and its result
    assert peak(lambda: (values + 1) * (values + 2)) == 3


def test_what_autograd_keeps_and_gradients_count(peak):
    leaf = torch.ones(N, requires_grad=True)

    def run():
        leaf.exp().exp().sum().backward()
        leaf.grad = None

    # Both exponentials are kept for backward; the first product (the gradient expanded by sum is a view) comes on top.
    # Then the outer one is freed only when its backward is over.
    assert peak(run) == pytest.approx(3, abs=0.01)


def test_a_result_that_nobody_keeps_is_gone_before_backward(peak):
    left, right = torch.ones(N, 1, requires_grad=True), torch.ones(1, 1)

    def run(keep):
        product = left @ right
        total = product.sum()
        if not keep:
            del product
        total.backward()
        left.grad = None

    assert peak(lambda: run(keep=False)) == pytest.approx(1, abs=0.01)  # the product, then the gradient of left
    assert peak(lambda: run(keep=True)) == pytest.approx(2, abs=0.01)


def test_nothing_is_left_of_a_counted_run(script):
    with script("memory").LiveBytes() as counted:
        torch.nn.Linear(10, 10)(torch.ones(2, 10)).sum().backward()
    gc.collect()
    assert counted.live == 0
    assert not counted._known


def test_a_counter_that_forgot_to_free_would_be_noticed(script, monkeypatch):
    memory = script("memory")
    monkeypatch.setattr(memory.weakref, "ref", lambda thing, freed: freed)
    values = torch.ones(N)
    assert memory.peak_bytes(lambda: ((values + 1) * 2) - 3, "cpu") == 3 * 4 * N
