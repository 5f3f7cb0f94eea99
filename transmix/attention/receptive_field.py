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
"""Gradients below this share of the largest count as rounding."""


def receptive_shift(model: nn.Module) -> float:
    """Return how many pixels above and left of its patch's middle a patch's token looks.

    0 where the patches are cut side by side. Convolutions that overlap and pad on both sides see more above and left:
    XCiT's tokens look at their patch's upper left pixel, half a patch away. A forward and a backward of the patch
    embedding find the pixels that a token in the middle of an image is computed from.

    Args:
        model: any ViT that `AttentionReader` can read.

    Raises:
        AttentionError: the model's attention cannot be read, or it is not known where its tokens look.
    """
    bare = unwrap(model)
    embedding = find_class_attention(bare).grid_from
    cutter: Any = None if embedding is None else cutter_of(embedding)
    stride = cutter.stride if isinstance(cutter, nn.Conv2d) else getattr(cutter, "patch_size", None)
    if stride is None:
        raise AttentionError(_unknown(bare, "its patches are not made by one module that gets the images"))
    down, across = (stride, stride) if isinstance(stride, int) else stride
    size = getattr(cutter, "img_size", None) or (CELLS * down, CELLS * across)
    height, width = (size, size) if isinstance(size, int) else size
    # On the CPU, since not every device has float64. Two images: of a batch of one, torch 2.15's batch norm gives wrong
    # gradients for tokens (B, P, D).
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = {name: value.detach().cpu() for name, value in cutter.state_dict().items()}
    exact = {name: value.double() if value.is_floating_point() else value for name, value in exact.items()}
    try:
        with torch.enable_grad(), torch.autocast("cpu", enabled=False), eval_mode(cutter):
            token, grid = _middle_token(functional_call(cutter, exact, (images.requires_grad_(),)), height, width)
            (gradient,) = torch.autograd.grad(token.square().sum(), images)
    except TypeError as error:  # a module that is given more than images
        raise AttentionError(_unknown(bare, f"{type(cutter).__name__} makes no patches of images alone")) from error
    strength = gradient[0].abs().sum(0)
    seen = strength > NOISE * strength.max()
    if not seen.any():
        raise AttentionError(_unknown(bare, f"the patches of {type(cutter).__name__} do not depend on the image"))
    shifts = [
        (cells // 2 + 0.5) * side / cells - _middle(seen.any(1 - axis))
        for axis, (cells, side) in enumerate(zip(grid, (height, width), strict=True))
    ]
    return sum(shifts) / 2


def _unknown(model: nn.Module, why: str) -> str:
    return f"it is not known where the tokens of {type(model).__name__} look: {why}. Give the rule's shift in pixels"


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
