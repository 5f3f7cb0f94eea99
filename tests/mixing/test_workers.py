"""Draws in the workers of a loader: no two workers or epochs draw alike, and the same loader draws the same again."""

import copy
import importlib.util
import pickle
from functools import cache

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from transmix import Mixer, TransMix

if importlib.util.find_spec("timm") is None:  # looked for, and not imported: a spawned worker imports this file anew
    pytest.skip("timm is not installed", allow_module_level=True)


class Collate:
    """What users write: mixing in the collate function."""

    def __init__(self, mix):
        self.mix = mix

    def __call__(self, samples):
        mixed = self.mix(*default_collate(samples))
        return (mixed[1] if isinstance(mixed, tuple) else mixed).lam


def a_mixer(generator=None):
    return Mixer(mixup_alpha=0, generator=generator)


@cache
def a_model():
    import timm

    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 1, "num_classes": 4}
    return timm.create_model("vit_tiny_patch16_224", **tiny)


def a_transmix(generator=None):
    return TransMix(copy.deepcopy(a_model()), mixup_alpha=0, generator=generator).mix


def a_timm_mixup(generator=None):
    from transmix.integrations.timm import TransMixup

    return TransMixup(copy.deepcopy(a_model()), mixup_alpha=0, generator=generator)


def a_torchvision_cutmix(generator=None):
    from transmix.integrations.torchvision import CutMix

    return CutMix(record=True)


MIXERS = {"Mixer": a_mixer, "TransMix.mix": a_transmix, "timm": a_timm_mixup, "torchvision": a_torchvision_cutmix}


def draws(mix, workers=2, epochs=2, seed=0, context=None, persistent=False):
    """lam of every batch of every epoch."""
    data = TensorDataset(torch.rand(16, 3, 32, 32), torch.arange(16) % 4)
    loader = DataLoader(
        data, 2, num_workers=workers, collate_fn=Collate(mix), generator=torch.Generator().manual_seed(seed),
        multiprocessing_context=context, persistent_workers=persistent,
    )  # fmt: skip
    return [[float(lam[0]) for lam in loader] for _ in range(epochs)]


def same(one, other):
    return sum(abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("make", "persistent"), [(a_mixer, True), *((make, False) for make in MIXERS.values())], ids=["persistent", *MIXERS]
)
def test_workers_and_epochs_draw_differently_and_again_alike(make, persistent):
    first, second = draws(make(), persistent=persistent)
    assert len(set(first + second)) > 12  # of 16; before, workers drew in pairs and epochs alike: 4
    if make is not a_torchvision_cutmix:  # whose draws come from the global generator, which the loader seeds
        seeded = [draws(make(torch.Generator().manual_seed(5)), seed=1) for _ in range(2)]
        assert seeded[0] == seeded[1]
        assert same(seeded[0][0], draws(make(torch.Generator().manual_seed(6)), seed=1)[0]) < 3
        assert same(seeded[0][0], draws(make(torch.Generator().manual_seed(5)), seed=2)[0]) < 3


def test_without_reading_the_workers_seed_workers_would_draw_alike(monkeypatch):
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: None)
    first, second = draws(a_mixer(torch.Generator().manual_seed(5)))
    assert first == second
    assert len(set(first)) == 4


def test_a_spawned_worker_draws_as_a_forked_one():
    forked, spawned = (
        draws(a_mixer(torch.Generator().manual_seed(5)), workers=1, context=kind, epochs=1)
        for kind in ("fork", "spawn")
    )
    assert forked == spawned


def test_in_the_loaders_own_process_draws_are_those_of_the_generator():
    expected = Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(5))
    wanted = [[expected.draw(2, 32, 32).lam[0] for _ in range(8)] for _ in range(2)]
    found = draws(a_mixer(torch.Generator().manual_seed(5)), workers=0)
    assert [[round(lam, 6) for lam in epoch] for epoch in found] == [[round(lam, 6) for lam in one] for one in wanted]


@pytest.mark.parametrize("double", [copy.deepcopy, lambda mixer: pickle.loads(pickle.dumps(mixer))])
def test_a_copy_of_a_mixer_goes_on_as_the_mixer_does(double):
    mixer = a_mixer(torch.Generator().manual_seed(5))
    mixer.draw(4, 32, 32)
    other = double(mixer)
    assert [mixer.draw(4, 32, 48) for _ in range(3)] == [other.draw(4, 32, 48) for _ in range(3)]
    assert other.generator is not mixer.generator
