"""The optimizer, its learning rate (both pure functions of the recipe and the step), and the EMA of the weights."""

import copy
import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from transmix.distributed import own_part
from transmix.recipes.settings import Optimization


def build_optimizer(model: nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """Return fused AdamW; no weight decay for biases, norms and exempt tensors; layer-wise rates."""
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]
    how: dict[str, Any] = {"weight_decay": settings.weight_decay, "no_weight_decay_list": exempt}
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(model, **how)
    else:
        groups = param_groups_layer_decay(model, layer_decay=settings.layer_decay, **how)
    return torch.optim.AdamW(groups, lr=peak_lr(settings), betas=settings.betas, eps=settings.eps, fused=True)


def peak_lr(settings: Optimization) -> float:
    """Return the learning rate at the end of warm-up, scaled by the batch size if the recipe sets lr_batch."""
    return settings.lr * (settings.images_per_step / settings.lr_batch if settings.lr_batch else 1.0)


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


class WeightAverage:
    """EMA of a model's weights: average = decay * average + (1 - decay) * weights.

    With warm-up, update t = 0, 1, ... uses min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage:
    without it the average of a short run is still close to the random initial weights.

    Args:
        model: not wrapped, not compiled.
        decay: per optimizer step, in [0, 1).
        start: initial average, `a_copy` of the model. Sharded if the model is.
        warmup: use the warm-up.

    Attributes:
        updates: scalar int64 on the device, number of updates; skipped steps do not count.
    """

    def __init__(self, model: nn.Module, decay: float, start: nn.Module, *, warmup: bool = True):
        self.model = start
        self.decay, self.warmup = decay, warmup
        self.updates = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        self._source: list[Tensor] = [own_part(weight) for weight in model.parameters()]
        self._average: list[Tensor] = [own_part(weight) for weight in self.model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, went: Tensor) -> None:
        """Update the average once.

        Args:
            went: scalar on the device, 1 if the optimizer stepped and 0 if it was skipped.
        """
        # One kernel over all weights; multiplied by 0 instead of an `if`, which would wait for the device.
        change = torch._foreach_sub(self._source, self._average)  # type: ignore
        rate = (9 / (10 + self.updates)).clamp(min=1 - self.decay) if self.warmup else 1 - self.decay
        torch._foreach_mul_(change, rate * went)  # type: ignore
        torch._foreach_add_(self._average, change)  # type: ignore
        for average, buffer in self._buffers:
            average.copy_(buffer)
        self.updates += went.to(torch.int64)


def a_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model without gradients."""
    return copy.deepcopy(model).requires_grad_(False).eval()
