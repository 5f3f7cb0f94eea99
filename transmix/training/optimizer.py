"""The optimizer and its learning rate, as pure functions of the recipe and the step."""

import math

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn

from transmix.recipes.settings import Optimization


def build_optimizer(model: nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """Return fused AdamW; no weight decay for biases, norms and exempt tensors; layer-wise rates."""
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(model, settings.weight_decay, no_weight_decay_list=exempt)
    else:
        groups = param_groups_layer_decay(
            model, settings.weight_decay, no_weight_decay_list=exempt, layer_decay=settings.layer_decay
        )
    return torch.optim.AdamW(groups, lr=peak_lr(settings), betas=settings.betas, eps=settings.eps, fused=True)


def peak_lr(settings: Optimization) -> float:
    """Return the learning rate at the end of warm-up, scaled by the batch size if the recipe sets lr_batch."""
    return settings.lr * (settings.batch_size / settings.lr_batch if settings.lr_batch else 1.0)


def lr_at(step: int, steps_per_epoch: int, settings: Optimization) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to min_lr, then min_lr.

    The cosine runs over all `epochs`, warm-up included, as in timm and DeiT; they change it once per epoch, this one
    every step.
    """
    peak, epoch = peak_lr(settings), step / steps_per_epoch
    if epoch < settings.warmup_epochs:
        return settings.warmup_lr + (peak - settings.warmup_lr) * epoch / settings.warmup_epochs
    progress = min(1.0, epoch / settings.epochs)
    return settings.min_lr + (peak - settings.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, scaled by its layer's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
