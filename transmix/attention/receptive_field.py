"""Where a patch's token looks: the middle of the pixels that it is computed from, against the middle of its patch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from transmix.attention.error import AttentionError
from transmix.attention.eval_mode import eval_mode
from transmix.attention.find import find_class_attention, unwrap
from transmix.attention.grid import cutter_of, find_grid

CELLS = 16
"""Patches along a side of the image that is tried, where the patch embedding asks for no size."""

NOISE = 1e-9
"""Gradients below this share of the largest are rounding: fast convolutions leave some everywhere."""


def receptive_shift(model: nn.Module) -> float:
    """Return how many pixels above and left of its patch's middle a patch's token looks.

    0 where the patches are cut side by side. Convolutions that overlap and pad on both sides see more above and left:
    XCiT's tokens look at their patch's upper left pixel, half a patch away. A forward and a backward of the patch
    embedding find the pixels that a token in the middle of an image is computed from.

    Args:
        model: any ViT that `AttentionReader` can read.

    Raises:
        AttentionError: the model's attention cannot be read, or no single module of it makes the patches.
    """
    bare = unwrap(model)
    embedding = find_class_attention(bare).grid_from
    weight = None if embedding is None else next(embedding.parameters(), None)
    if embedding is None or weight is None:
        raise AttentionError(
            f"{type(bare).__name__} makes its patches in several modules, so it is not known where a token looks: give "
            f"the rule's shift in pixels"
        )
    cutter: Any = cutter_of(embedding)
    stride = cutter.stride if isinstance(cutter, nn.Conv2d) else cutter.patch_size
    down, across = (stride, stride) if isinstance(stride, int) else stride
    size = getattr(cutter, "img_size", None) or (CELLS * down, CELLS * across)
    height, width = (size, size) if isinstance(size, int) else size
    # Two images: of a batch of one, torch 2.15's batch norm gives wrong gradients for tokens (B, P, D) on a CPU.
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    images = images.to(weight.device, torch.float64).requires_grad_()
    exact = {name: value.detach().double() for name, value in cutter.state_dict().items() if value.is_floating_point()}
    with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False), eval_mode(cutter):
        token, grid = _middle_token(functional_call(cutter, exact, (images,)), height, width)
        (gradient,) = torch.autograd.grad(token.square().sum(), images)
    strength = gradient[0].abs().sum(0)
    seen = strength > NOISE * strength.max()
    shifts = [
        (cells // 2 + 0.5) * side / cells - _middle(seen.any(1 - axis))
        for axis, (cells, side) in enumerate(zip(grid, (height, width), strict=True))
    ]
    return sum(shifts) / 2


def _middle_token(output: Tensor | tuple, height: int, width: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the token in the middle of what a patch embedding returned, and the grid of its tokens."""
    tokens = output if isinstance(output, Tensor) else output[0]
    if tokens.ndim == 4:
        grid = tokens.shape[2], tokens.shape[3]
        return tokens[0, :, grid[0] // 2, grid[1] // 2], grid
    grid = find_grid(tokens.shape[1], height, width)
    return tokens[0, grid[0] // 2 * grid[1] + grid[1] // 2], grid


def _middle(seen: Tensor) -> float:
    """Return the middle of the places from the first to the last that is true, of (n,) bool."""
    places = seen.nonzero()
    return float(places.min() + places.max() + 1) / 2
