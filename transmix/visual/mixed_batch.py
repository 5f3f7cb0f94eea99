"""The figure of a mixed batch, one row per sample, from a `Mixed` record."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from transmix.visual.overlay import as_array, as_picture, check_attention
from transmix.visual.pairs import Pair, Share, label_shares, pairs_figure, trained_note
from transmix.visual.palette import PAGE


def mixed_batch_figure(
    mixed: Any,
    attention: Any,
    grid: tuple[int, int] | None,
    class_names: Sequence[str],
    *,
    base_images: Any = None,
    rows: int = 6,
    width: float = PAGE,
    weight: float | None = None,
) -> Figure:
    """Draw a mixed batch with its labels by area, by attention and as trained.

    Columns: image A and image B (if `base_images` is given), the mixed image with the box outlined, the
    attention over it (if `attention` is given), and the label: by area, by attention alone, and as it was trained.

    Args:
        mixed: The mixed batch, a `transmix.mixing.Mixed`: images (B, 3, H, W), uint8 or float in 0..1; labels
            (B,) int64; partner (B,) int64; lam and lam_area (B,), weight of the own label; mask (B or 1, H, W),
            true where the partner's pixels are, or None.
        attention: (B, P) attention of the class token over the patches, row by row of the grid, or None.
        grid: Patches (h, w), h * w = P; needed with `attention`.
        class_names: K names.
        base_images: (B, 3, H, W) the batch before mixing, or None.
        rows: Maximum number of samples; those with the largest change of the label by attention come first.
        width: Figure width in inches.
        weight: Weight of the rule's evidence in the trained label; None: not shown.

    Raises:
        ValueError: Shapes do not match, float images are outside 0..1, attention is negative or not finite, or labels
            have no name.
    """
    _check(mixed, base_images, class_names, rows)
    labels, partner = as_array(mixed.labels), as_array(mixed.partner)
    looked = [None] * len(labels) if attention is None else check_attention(attention, len(labels), grid)
    pairs = []
    for row in choose_rows(mixed, rows):
        both = (None, None)
        if base_images is not None:
            both = as_picture(base_images[row]), as_picture(base_images[int(partner[row])])
        names = class_names[int(labels[row])], class_names[int(labels[partner[row]])]
        picture = as_picture(mixed.images[row])
        pairs.append(Pair(*both, picture, row_mask(mixed, row), looked[row], names, row_shares(mixed, row)))
    notes = () if weight is None or mixed.rule == "area" else (trained_note(weight, mixed.rule),)
    return pairs_figure(pairs, grid, width=width, notes=notes)


def choose_rows(mixed: Any, rows: int) -> list[int]:
    """Choose at most `rows` samples; those whose labels by attention and by area differ most come first."""
    change = np.abs(as_array(mixed.lam) - as_array(mixed.lam_area))
    return np.argsort(-change, kind="stable")[:rows].tolist()


def row_mask(mixed: Any, row: int) -> np.ndarray:
    """Return the partner's share of each pixel in one sample: (H, W) bool or float, 0 if the batch has no masks."""
    if mixed.mask is None:
        return np.zeros(mixed.images.shape[-2:], dtype=bool)
    return as_array(mixed.mask[row if len(mixed.mask) > 1 else 0])


def row_shares(mixed: Any, row: int) -> list[Share]:
    """Return the label of one sample: by area, by attention (or other evidence) alone if known, and as trained.

    Without a mask only the trained label is returned. A separate weight of the partner's label (`lam_partner`) is drawn
    as its share of the sum.
    """
    trained = float(mixed.lam[row])
    if mixed.lam_partner is not None:
        trained /= max(trained + float(mixed.lam_partner[row]), 1e-12)
    if not row_mask(mixed, row).any():
        return label_shares(None, None, trained)
    evidence = None if mixed.lam_evidence is None else float(mixed.lam_evidence[row])
    return label_shares(float(mixed.lam_area[row]), evidence, trained, mixed.rule)


def _check(mixed: Any, base_images: Any, class_names: Sequence[str], rows: int) -> None:
    shape = tuple(mixed.images.shape)
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W), got {shape}")
    if shape[0] == 0 or rows < 1:
        raise ValueError(f"nothing to draw: {shape[0]} images and at most {rows} rows")
    if base_images is not None and tuple(base_images.shape) != shape:
        raise ValueError(f"base_images are {tuple(base_images.shape)} and mixed images {shape}")
    for name in ("labels", "partner", "lam", "lam_area"):
        if tuple(getattr(mixed, name).shape) != shape[:1]:
            raise ValueError(f"expected {name} {shape[:1]}, got {tuple(getattr(mixed, name).shape)}")
    lowest, highest = int(mixed.labels.min()), int(mixed.labels.max())
    if not 0 <= lowest <= highest < len(class_names):
        raise ValueError(f"labels {lowest}..{highest} do not fit {len(class_names)} class names")
    if mixed.mask is not None and tuple(mixed.mask.shape) not in (shape[:1] + shape[2:], (1, *shape[2:])):
        raise ValueError(f"expected mask ({shape[0]} or 1, {shape[2]}, {shape[3]}), got {mixed.mask.shape}")
