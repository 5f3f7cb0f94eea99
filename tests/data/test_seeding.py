"""Keys are stable and distinct, and the global generators are only borrowed."""

import random

import numpy as np
import pytest
import torch

from transmix.data.seeding import derive_seed, global_generators


def global_states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()


def global_draws():
    return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002


def test_a_key_is_the_same_on_every_machine_and_in_every_version():
    assert derive_seed(0, "order", 1) == 2961819992523135983
    assert derive_seed(1, 2, "augment") == 8297723103296203840


def test_different_parts_give_different_keys():
    parts = [
        (seed, word, epoch, index)
        for seed in (0, 1)
        for word in ("mix", "order")
        for epoch in range(20)
        for index in range(50)
    ]
    assert len({derive_seed(*part) for part in parts}) == len(parts)


def test_where_one_part_ends_and_the_next_begins_matters():
    assert derive_seed(1, 11) != derive_seed(11, 1)
    assert derive_seed(1, 11) != derive_seed(111)
    assert derive_seed(0) != derive_seed(0, 0)


def test_a_key_is_not_negative_and_below_two_to_the_63():
    keys = [derive_seed(number) for number in range(200)]
    assert all(0 <= value < 2**63 for value in keys)
    assert max(keys) > 2**62  # else bits are wasted


def test_the_same_seed_gives_the_same_draws_from_all_three_generators():
    with global_generators(2**62 + 5):
        first = global_draws()
    with global_generators(2**62 + 5):
        second = global_draws()
    with global_generators(2**62 + 6):
        other = global_draws()
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_all_three_generators_are_put_back_also_after_an_exception():
    before = global_states()
    with global_generators(7):
        global_draws()
        assert all(a != b for a, b in zip(before, global_states(), strict=True) if a != (0, 0.0))
    assert global_states() == before
    with pytest.raises(ZeroDivisionError), global_generators(7):
        global_draws()[0] / 0
    assert global_states() == before


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(())])
def test_a_single_draw_from_any_generator_would_be_noticed(draw):
    before = global_states()
    draw()
    assert global_states() != before
