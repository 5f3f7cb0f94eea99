"""Figures of attention over images: head by head, layer by layer, rolled out, and over the epochs of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from transmix.visual.overlay import as_array, as_picture, attention_overlay, check_attention
from transmix.visual.palette import AVERAGE, INK, PAGE
from transmix.visual.panels import Panel, arrange, panels_figure

SCALE = "dark: no attention, yellow: the patch with the most, whose share stands below"


def heads_figure(
    images: Any,
    rows: Any,
    grid: tuple[int, int],
    names: Sequence[str],
    *,
    layer: int | None = None,
    width: float = PAGE,
) -> Figure:
    """Draw what each head of one layer looks at on behalf of the class token, and their mean.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        rows: (B, G, P) attention over the patches.
        grid: (h, w), h * w = P.
        names: B names, written below the images.
        layer: Its number, for the text below.
        width: Of the figure in inches.
    """
    heads = as_array(rows)
    columns = {"mean": heads.mean(1)} | {f"head {number}": heads[:, number] for number in range(heads.shape[1])}
    what = "heads" if layer is None else f"heads of layer {layer}"
    return _figure(images, columns, grid, names, width, (f"attention of the class token in the {what}", SCALE))


def layers_figure(
    images: Any, rows: Mapping[int, Any], grid: tuple[int, int], names: Sequence[str], *, width: float = PAGE
) -> Figure:
    """Draw what the class token looks at in each layer.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        rows: Number of the layer -> (B, P), mean over its heads.
        grid: (h, w), h * w = P.
        names: B names, written below the images.
        width: Of the figure in inches.
    """
    columns = {f"layer {number}": row for number, row in rows.items()}
    notes = ("attention of the class token, mean over the heads, in layers that attend over the whole image", SCALE)
    return _figure(images, columns, grid, names, width, notes)


def rollout_figure(
    images: Any,
    last: Any,
    rolled: Any,
    grid: tuple[int, int],
    names: Sequence[str],
    *,
    layers: int,
    width: float = PAGE,
) -> Figure:
    """Draw the class token's attention in the last layer, and rolled out over all of them.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        last: (B, P) of the last layer, mean over the heads.
        rolled: (B, P) of `rollout`.
        grid: (h, w), h * w = P.
        names: B names, written below the images.
        layers: How many were rolled out over.
        width: Of the figure in inches.
    """
    number = f"{layers} layers" if layers > 1 else "the one layer that attends over the whole image"
    notes = (f"rollout over {number}, half of each token kept (Abnar and Zuidema, 2020)", SCALE)
    return _figure(images, {"last layer": last, "rollout": rolled}, grid, names, width, notes)


def epochs_figure(
    images: Any,
    rows: Mapping[int, Any],
    grid: tuple[int, int],
    labels: Any,
    logits: Mapping[int, Any],
    class_names: Sequence[str],
    *,
    width: float = PAGE,
) -> Figure:
    """Draw the class token's attention over the same images epoch by epoch, with what was predicted.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        rows: Epoch, from 1 -> (B, P). As many are drawn as have room, evenly spaced, the first and the last among them.
        grid: (h, w), h * w = P.
        labels: (B,) int64.
        logits: Epoch -> (B, K).
        class_names: K names.
        width: Of the figure in inches.
    """
    epochs = spaced(sorted(rows), most_columns(width))
    pictures, truth = [as_picture(image) for image in images], as_array(labels)
    attention = {epoch: check_attention(rows[epoch], len(pictures), grid) for epoch in epochs}
    blocks = []
    for index, picture in enumerate(pictures):
        block = [Panel(picture, "image", class_names[int(truth[index])])]
        for epoch in epochs:
            predicted, confidence = prediction(as_array(logits[epoch])[index])
            right = predicted == truth[index]
            note = f"{'✓' if right else '✗'} {class_names[predicted]} ({confidence:.0%})"
            overlay = attention_overlay(picture, attention[epoch][index], grid)
            block.append(Panel(overlay, f"epoch {epoch}", note, INK if right else AVERAGE))
        blocks.append(block)
    notes = (
        "attention of the class token, dark: none, yellow: the most of the picture",
        "below: the predicted class and its probability",
    )
    return panels_figure(blocks, width=width, notes=notes)


def most_columns(width: float) -> int:
    """Return how many panels beside an image fit in one line of `width` inches."""
    columns = 1
    while arrange(columns + 1, 1, width).lines == 1:
        columns += 1
    return columns


def spaced(values: Sequence[int], most: int) -> list[int]:
    """Choose at most `most` of the values, evenly spaced, the last among them, and the first if there are two."""
    if most == 1:
        return list(values[-1:])
    chosen = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[position] for position in chosen]


def prediction(logits: np.ndarray) -> tuple[int, float]:
    """Return the class of the highest of (K,) logits, and its softmax probability."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return int(logits.argmax()), float(shifted.max() / shifted.sum())


def _figure(
    images: Any,
    columns: Mapping[str, Any],
    grid: tuple[int, int],
    names: Sequence[str],
    width: float,
    notes: tuple[str, ...],
) -> Figure:
    pictures = [as_picture(image) for image in images]
    checked = {title: check_attention(rows, len(pictures), grid) for title, rows in columns.items()}
    blocks = []
    for index, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        block = [Panel(picture, "image", name)]
        for title, rows in checked.items():
            overlay = attention_overlay(picture, rows[index], grid)
            block.append(Panel(overlay, title, f"{rows[index].max():.0%}"))
        blocks.append(block)
    return panels_figure(blocks, width=width, notes=notes)
