"""The learning rate is timm's at whole epochs; weight decay and layer decay reach the right weights."""

import itertools

import pytest
import timm
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from transmix.recipes.settings import Optimization
from transmix.training.optimizer import build_optimizer, lr_at, peak_lr, set_lr

SCHEDULES = [
    Optimization(epochs=10, warmup_epochs=3.0, cooldown_epochs=2, lr=1e-3, min_lr=1e-5, warmup_lr=1e-6),
    Optimization(epochs=7, warmup_epochs=0.0, cooldown_epochs=1, lr=0.1, min_lr=0.0),
    Optimization(epochs=12, warmup_epochs=5.0, lr=5e-4, lr_batch=512, batch_size=1024),
    Optimization(epochs=4, warmup_epochs=4.0, lr=2e-3),
]


def timms(settings):
    """The learning rates that timm sets at the beginning of each epoch, and of one more."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak_lr(settings))
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=settings.epochs,
        lr_min=settings.min_lr,
        warmup_t=int(settings.warmup_epochs),
        warmup_lr_init=settings.warmup_lr,
        t_in_epochs=True,
    )
    rates = []
    for epoch in range(settings.epochs + settings.cooldown_epochs + 1):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("settings", SCHEDULES)
@pytest.mark.parametrize("steps_per_epoch", [1, 13])
def test_the_learning_rate_at_whole_epochs_is_timms(settings, steps_per_epoch):
    ours = [lr_at(epoch * steps_per_epoch, steps_per_epoch, settings) for epoch, _ in enumerate(timms(settings))]
    assert ours == pytest.approx(timms(settings), abs=1e-9)


def test_a_cosine_that_begins_after_warm_up_would_be_noticed():
    settings = SCHEDULES[0]
    shorter = Optimization(epochs=7, warmup_epochs=0.0)
    wrong = [lr_at(epoch, 1, settings) if epoch < 3 else lr_at(epoch - 3, 1, shorter) for epoch in range(13)]
    assert wrong != pytest.approx(timms(settings), abs=1e-9)


def test_the_rate_rises_at_every_step_of_warm_up_and_falls_at_every_step_after():
    settings, steps = SCHEDULES[0], 13
    rates = [lr_at(step, steps, settings) for step in range(10 * steps + 1)]
    warmup, cosine = rates[: 3 * steps], rates[3 * steps :]
    assert all(a < b for a, b in itertools.pairwise(warmup))
    assert all(a > b for a, b in itertools.pairwise(cosine))
    assert rates[0] == settings.warmup_lr
    assert max(rates) <= peak_lr(settings)


def test_warm_up_may_be_a_fraction_of_an_epoch():
    settings = Optimization(epochs=2, warmup_epochs=0.5, lr=1.0, warmup_lr=0.0, min_lr=0.0)
    assert [lr_at(step, 8, settings) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert lr_at(8, 8, settings) == pytest.approx(0.5)  # half way down the cosine


def test_cooldown_stays_at_the_smallest_rate():
    settings, steps = SCHEDULES[0], 13
    assert {lr_at(step, steps, settings) for step in range(10 * steps, 12 * steps)} == {settings.min_lr}


@pytest.mark.parametrize(
    ("batch_size", "lr_batch", "expected"), [(1024, 512, 2e-3), (256, 512, 5e-4), (256, None, 1e-3), (256, 256, 1e-3)]
)
def test_the_peak_is_scaled_to_the_batch_where_the_recipe_says_so(batch_size, lr_batch, expected):
    settings = Optimization(lr=1e-3, batch_size=batch_size, lr_batch=lr_batch, warmup_epochs=0.0)
    assert peak_lr(settings) == pytest.approx(expected)
    assert lr_at(0, 10, settings) == pytest.approx(expected)


@pytest.fixture(scope="module")
def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=(32, 48), depth=2, embed_dim=24, num_heads=2, num_classes=5
    )


def by_name(model, optimizer, setting):
    """The value of a group's setting for each parameter, by the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group.get(setting) for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_biases_norms_class_token_and_position_embedding_get_no_weight_decay(vit, layer_decay):
    decay = by_name(vit, build_optimizer(vit, Optimization(weight_decay=0.3, layer_decay=layer_decay)), "weight_decay")
    assert set(decay) == {name for name, _ in vit.named_parameters()}
    exempt = {name for name in decay if name.endswith("bias") or "norm" in name or name in ("cls_token", "pos_embed")}
    assert {name for name, value in decay.items() if value == 0} == exempt
    assert {decay[name] for name in decay.keys() - exempt} == {0.3}
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= exempt
    assert {"head.weight", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight"} <= decay.keys() - exempt


def test_a_model_that_exempts_nothing_still_spares_biases_and_norms():
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    decay = by_name(model, build_optimizer(model, Optimization(weight_decay=0.3)), "weight_decay")
    assert decay == {"0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}


def test_frozen_weights_are_left_out():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    assert set(by_name(model, build_optimizer(model, Optimization()), "lr")) == {"1.weight", "1.bias"}


def test_layer_decay_lowers_the_rate_from_the_head_down(vit):
    scale = by_name(vit, build_optimizer(vit, Optimization(layer_decay=0.5)), "lr_scale")
    assert scale["head.weight"] == scale["head.bias"] == 1.0
    assert scale["blocks.1.mlp.fc1.weight"] == 0.5
    assert scale["blocks.0.mlp.fc1.weight"] == 0.25
    assert scale["patch_embed.proj.weight"] == scale["cls_token"] == 0.125 == min(scale.values())


def test_without_layer_decay_every_weight_has_the_same_rate(vit):
    optimizer = build_optimizer(vit, Optimization())
    set_lr(optimizer, 0.2)
    assert set(by_name(vit, optimizer, "lr").values()) == {0.2}


def test_setting_the_rate_respects_each_layers_factor_and_does_not_add_up(vit):
    optimizer = build_optimizer(vit, Optimization(layer_decay=0.5))
    for _ in range(2):
        set_lr(optimizer, 0.8)
    rates = by_name(vit, optimizer, "lr")
    assert rates["head.weight"] == pytest.approx(0.8)
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(0.2)
    assert rates["pos_embed"] == pytest.approx(0.1)


def test_the_optimizer_takes_its_numbers_from_the_recipe(vit):
    settings = Optimization(lr=0.5, batch_size=128, lr_batch=256, betas=(0.8, 0.95), eps=1e-6)
    optimizer = build_optimizer(vit, settings)
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.25, (0.8, 0.95), 1e-6)
