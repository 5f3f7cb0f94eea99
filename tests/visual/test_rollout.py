"""Rollout against a slow product of whole matrices in float64, for every way in which a class token asks."""

import numpy as np
import pytest
import torch

from transmix import AttentionError
from transmix.visual.look import Look, look, rollout

PATCHES, GRID = 6, (2, 3)


def softmaxes(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.randn(2, 3, *shape, generator=generator)).softmax(-1) for shape in shapes]


def looked(maps, own_token=True):
    return Look(torch.rand(2, PATCHES), GRID, tuple(maps), own_token)


def product(matrices):
    """Multiply (N, N) matrices of one sample, the last layer's at the left, number by number."""
    size = len(matrices[0])
    total = np.eye(size)
    for matrix in matrices:
        total = np.array(
            [[sum(matrix[i, k] * total[k, j] for k in range(size)) for j in range(size)] for i in range(size)]
        )
    return total


def slow(maps, size, own_token=True, residual=0.5):
    """Roll out over `size` tokens, the asking one first; where it alone asks, the others stay as they are."""
    rows = []
    for sample in range(2):
        matrices = []
        for weights in maps:
            mean = weights[sample].double().numpy().mean(0)
            whole = np.eye(size)
            if len(mean) == 1:
                start = 0 if own_token else 1
                whole[0] = 0
                whole[0, start:] = mean[0]
            else:
                whole[-len(mean) :, -len(mean) :] = mean
            step = residual * np.eye(size) + (1 - residual) * whole
            if len(mean) > 1:  # tokens that are not there yet are not weakened
                step[: size - len(mean)] = np.eye(size)[: size - len(mean)]
            else:
                step[1:] = np.eye(size)[1:]
            matrices.append(step)
        rows.append(product(matrices)[0, -PATCHES:])
    return np.array(rows)


CASES = {
    "class token": ([(7, 7)] * 4, 7, True),
    "registers": ([(9, 9)] * 3, 9, True),
    "one layer": ([(7, 7)], 7, True),
    "class attention after the patches": ([(6, 6)] * 3 + [(1, 7)] * 2, 7, True),
    "class attention alone": ([(1, 7)] * 2, 7, True),
    "a class token that joins late": ([(6, 6)] * 2 + [(7, 7)] * 2, 7, True),
    "an attention pool": ([(6, 6)] * 3 + [(1, 6)], 7, False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_rollout_is_the_product_of_whole_matrices(case, residual):
    shapes, size, own_token = CASES[case]
    maps = softmaxes(*shapes)
    ours = rollout(looked(maps, own_token), residual).numpy()
    assert ours == pytest.approx(slow(maps, size, own_token, residual), abs=1e-6)


@pytest.mark.parametrize("case", [case for case, (shapes, _, _) in CASES.items() if len(shapes) > 2])
def test_another_order_residual_or_layer_is_told_apart(case):
    shapes, size, own_token = CASES[case]
    maps = softmaxes(*shapes)
    ours = rollout(looked(maps, own_token)).numpy()
    first = [maps[1], maps[0], *maps[2:]]
    for wrong in (slow(first, size, own_token), slow(maps, size, own_token, 0.4), slow(maps[1:], size, own_token)):
        assert np.abs(ours - wrong).max() > 1e-3


def test_what_is_passed_on_sums_to_one_and_nothing_is_taken_where_all_is_kept():
    maps = softmaxes((7, 7), (7, 7), (7, 7))
    ours = rollout(looked(maps))
    assert (ours >= 0).all()
    assert (ours.sum(1) < 1).all()
    whole = slow(maps, 7)
    assert ours.numpy() == pytest.approx(whole, abs=1e-6)
    assert not rollout(looked(maps), residual=1.0).any()


@pytest.mark.parametrize("architecture", ["deit_tiny_patch16_224", "cait_xxs24_224"])
def test_a_whole_model_is_rolled_out(architecture, tiny):
    model = tiny(architecture, (16, 24))
    found = look(model, torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)))
    assert found.grid == GRID
    assert rollout(found).numpy() == pytest.approx(slow(found.maps, 7), abs=1e-6)


def test_pooled_keys_are_refused():
    with pytest.raises(AttentionError) as error:
        rollout(looked(softmaxes((24, 6), (7, 7))))
    assert str(error.value) == (
        "layer 0 has 24 queries and 6 keys, not self-attention over 6 patches: attention rollout is not defined for "
        "it; show heads or layers instead"
    )
