"""The grid of the patches: told by the module that cuts images into them, never guessed from their number alone."""

from typing import Any

from torch import Tensor, nn

from transmix.attention.error import AttentionError
from transmix.attention.head import ClassAttentionHead


def grid_of(module: nn.Module, seen: Tensor, output: Any) -> tuple[int, int] | None:
    """Return the grid (h, w) that one forward of a module tells; None for features without spatial axes.

    Args:
        module: a patch embedding, the convolution in one, a class-attention head, or an attention pool over features.
        seen: its first argument: images (B, C, H, W), or features.
        output: what it returned.

    Raises:
        AttentionError: patches of images of different sizes in one batch.
    """
    if isinstance(module, ClassAttentionHead):
        if seen.ndim != 4:
            return None
        return (seen.shape[2], seen.shape[3]) if seen.shape[1] == module.width else (seen.shape[1], seen.shape[2])
    if seen.ndim != 4:
        raise AttentionError(
            f"{type(module).__name__} was given patches {tuple(seen.shape)} instead of images: every sample has a grid "
            f"of its own, over which no box lies alike. Give images (B, C, H, W) of one size"
        )
    height, width = seen.shape[2:]
    if isinstance(module, nn.Conv2d):
        return output.shape[2], output.shape[3]
    if (patch := getattr(module, "patch_size", None)) is None:  # a pool over features (B, C, h, w)
        return height, width
    down, across = (patch, patch) if isinstance(patch, int) else patch
    if getattr(module, "dynamic_img_pad", False):
        return -(-height // down), -(-width // across)
    return height // down, width // across
