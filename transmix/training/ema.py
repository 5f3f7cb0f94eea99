"""The running average of the weights (EMA)."""

import copy

import torch
from torch import Tensor, nn

from transmix.training.sharding import own_part


class WeightAverage:
    """A copy of a model whose weights follow the trained ones: average = decay * average + (1 - decay) * weights.

    Args:
        model: not wrapped, not compiled.
        decay: per optimizer step, in [0, 1).
        start: what the average starts as, `a_copy` of the model; None: made here. Sharded if the model is.
    """

    def __init__(self, model: nn.Module, decay: float, start: nn.Module | None = None):
        self.model = a_copy(model) if start is None else start
        self.decay = decay
        self._source: list[Tensor] = [own_part(weight) for weight in model.parameters()]
        self._average: list[Tensor] = [own_part(weight) for weight in self.model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, went: Tensor) -> None:
        """Follow the model by one step.

        Args:
            went: scalar on the device, 1 if the optimizer stepped and 0 if the step was held back.
        """
        change = torch._foreach_sub(self._source, self._average)  # type: ignore
        torch._foreach_mul_(change, (1 - self.decay) * went)  # type: ignore
        torch._foreach_add_(self._average, change)  # type: ignore
        for average, buffer in self._buffers:
            average.copy_(buffer)


def a_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model that is not trained."""
    return copy.deepcopy(model).requires_grad_(False).eval()
