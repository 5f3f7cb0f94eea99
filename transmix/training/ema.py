"""EMA: the exponential moving average of the weights."""

import copy

import torch
from torch import Tensor, nn

from transmix.training.sharding import own_part


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
