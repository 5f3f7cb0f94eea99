"""The grid of the patches: read from the module that cuts images into patches, else computed from their number."""

from functools import lru_cache
from itertools import product
from typing import Any

from torch import Tensor, nn

from transmix.attention.error import AttentionError
from transmix.attention.head import ClassAttentionHead


def cutter_of(embedding: nn.Module) -> nn.Module:
    """Return the convolution of a patch embedding that cuts the patches, else the embedding itself."""
    convolution, patch = getattr(embedding, "proj", None), getattr(embedding, "patch_size", None)
    size = (patch, patch) if isinstance(patch, int) else tuple(patch or ())
    # Sizes can differ where the embedding resizes its kernel to the image (FlexiViT): then it tells the grid itself.
    return convolution if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == size else embedding


def grid_of(module: nn.Module, seen: Tensor, output: Any) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return the grid (h, w) of one forward of a module, and the pixels (height, width) that it covers.

    Args:
        module: a patch embedding, the convolution in one, a class-attention head, or an attention pool over features.
        seen: its first argument: images (B, C, H, W), or features.
        output: what it returned.

    Returns:
        None, None for features without spatial axes; no pixels for a module that does not see images.

    Raises:
        AttentionError: patches of images of different sizes in one batch.
    """
    if isinstance(module, ClassAttentionHead):
        if seen.ndim != 4:
            return None, None
        first = seen.shape[1] == module.width
        return ((seen.shape[2], seen.shape[3]) if first else (seen.shape[1], seen.shape[2])), None
    if seen.ndim != 4:
        why = "every sample then has its own grid, and one box mask does not fit all"
        what = f"{type(module).__name__} was given patches {tuple(seen.shape)} instead of images"
        raise AttentionError(f"{what}: {why}. Give images (B, C, H, W) of one size")
    height, width = seen.shape[2:]
    if isinstance(module, nn.Conv2d):
        grid = (output.shape[2], output.shape[3])
        if module.stride != module.kernel_size or module.padding not in ((0, 0), "valid"):
            return grid, (height, width)  # overlapping patches
        return grid, (grid[0] * module.stride[0], grid[1] * module.stride[1])  # without a remainder at the border
    if (patch := getattr(module, "patch_size", None)) is None:  # a pool over features (B, C, h, w)
        return (height, width), None
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return (height // down, width // across), (height // down * down, width // across * across)


def stride_of(model: nn.Module, name: str) -> int | None:
    """Return the stride in pixels of the last features of the timm model that holds a module; None if unknown."""
    while True:
        name = name.rpartition(".")[0]
        info = getattr(model.get_submodule(name), "feature_info", None)
        if isinstance(info, list) and info and isinstance(info[-1], dict):
            told = info[-1].get("reduction")
            return told if isinstance(told, int) else None
        if not name:
            return None


@lru_cache  # asked for at every step
def find_grid(patches: int, height: int, width: int, stride: int | None = None) -> tuple[int, int]:
    """Return the grid (h, w) of `patches` patches over an image of `height` x `width` pixels.

    With a total stride s, h = H / s and w = W / s, each rounded down or up; the longer side of the image never has
    fewer patches than the shorter one. An exact grid is preferred, then one that rounds both sides the same way.

    Args:
        patches: P, number of patches.
        height: image height in pixels.
        width: image width in pixels.
        stride: total stride in pixels or a multiple of it, if the model declares one; None: unknown.

    Raises:
        ValueError: no stride gives this number of patches, or several strides give different grids.
    """
    exact, alike, unlike = set(), set(), set()
    for step in range(1, max(height, width) + 1):
        if stride and stride % step:
            continue  # keys that are pooled less than queries (MViT) lie closer than the features
        for down, right in product((False, True), repeat=2):
            h, w = (side // step + (up and side % step > 0) for side, up in ((height, down), (width, right)))
            if h * w == patches and (h == w if height == width else (h - w) * (height - width) >= 0):
                divides = height % step == 0 and width % step == 0
                (exact if divides else alike if down == right else unlike).add((h, w))
    grids = exact or (alike | unlike if alike else set())
    if len(grids) != 1:
        among = f" (it could be {' or '.join(f'{h} x {w}' for h, w in sorted(grids))})" if grids else ""
        images = f"a {height} x {width} image" + (f" at a stride of {stride} pixels" if stride else "")
        raise ValueError(f"{patches} patches do not make one grid over {images}{among}; pass grid=(h, w)")
    return grids.pop()
