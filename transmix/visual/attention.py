"""Figures of attention over images: per head, per layer, attention rollout, and over the epochs of a run."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from transmix.visual.overlay import (
    Grid,
    as_array,
    as_picture,
    attention_notes,
    attention_overlay,
    check_attention,
    draw_outline,
    draw_picture,
    multiples,
    scale_end,
)
from transmix.visual.page import Page, shorten, text_width
from transmix.visual.palette import AVERAGE, COLUMN, GAP, INK, MARGIN, PAGE, SMALL, TEXT, our_style

LEAST, WISHED, LARGEST = 0.62, 0.95, 2.15  # inches across one picture
BETWEEN = 0.24  # inches between two blocks side by side
TITLE, NOTE = 0.17, 0.14  # inches of height


@our_style()
def attention_figure(
    image: Any, row: Any, grid: Grid, mask: np.ndarray | None = None, *, width: float = COLUMN
) -> Figure:
    """Draw the class token's attention over one image, and the outline of the pasted pixels.

    Args:
        image: (3, H, W), uint8 or float in 0..1.
        row: (P,) attention over the patches.
        grid: (h, w), h * w = P.
        mask: (H, W) bool, true where another image's pixels are.
        width: Figure width in inches.
    """
    picture, (row,) = as_picture(image), check_attention(as_array(row)[None], 1, grid)
    side, end = width - 2 * MARGIN, scale_end([row])
    height = side * picture.shape[0] / picture.shape[1]
    page = Page(width, MARGIN + height, attention_notes([row]), end)
    axes = page.axes(MARGIN, MARGIN, side, height)
    draw_picture(axes, attention_overlay(picture, row, grid, end), as_it_is=True)
    if mask is not None:
        draw_outline(axes, mask)
    return page.figure


def heads_figure(
    images: Any, rows: Any, grid: Grid, names: Sequence[str], *, layer: int | None = None, width: float = PAGE
) -> Figure:
    """Draw the class token's attention in each head of one layer, and their mean.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        rows: (B, G, P) attention over the patches.
        grid: (h, w), h * w = P.
        names: B names, written below the images.
        layer: Layer number, for the caption.
        width: Figure width in inches.
    """
    heads = as_array(rows)
    columns = {"mean": heads.mean(1)} | {f"head {number}": heads[:, number] for number in range(heads.shape[1])}
    what = "heads" if layer is None else f"heads of layer {layer}"
    return _figure(images, columns, grid, names, width, f"the class token's in the {what}")


def layers_figure(
    images: Any, rows: Mapping[int, Any], grid: Grid, names: Sequence[str], *, width: float = PAGE
) -> Figure:
    """Draw the class token's attention in each layer.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        rows: Layer number -> (B, P), mean over its heads.
        grid: (h, w), h * w = P.
        names: B names, written below the images.
        width: Figure width in inches.
    """
    columns = {f"layer {number}": row for number, row in rows.items()}
    note = "the class token's, mean over the heads, in layers that attend over the whole image"
    return _figure(images, columns, grid, names, width, note)


def rollout_figure(
    images: Any, last: Any, rolled: Any, grid: Grid, names: Sequence[str], *, layers: int, width: float = PAGE
) -> Figure:
    """Draw the class token's attention in the last layer, and its rollout over all layers.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        last: (B, P) of the last layer, mean over the heads.
        rolled: (B, P) from `rollout`.
        grid: (h, w), h * w = P.
        names: B names, written below the images.
        layers: Number of layers in the rollout.
        width: Figure width in inches.
    """
    number = f"{layers} layers" if layers > 1 else "the one layer that attends over the whole image"
    note = f"rollout over {number}, half of each token kept (Abnar and Zuidema, 2020)"
    return _figure(images, {"last layer": last, "rollout": rolled}, grid, names, width, note)


def epochs_figure(
    images: Any,
    rows: Mapping[int, Any],
    grid: Grid,
    labels: Any,
    logits: Mapping[int, Any],
    class_names: Sequence[str],
    *,
    width: float = PAGE,
) -> Figure:
    """Draw the class token's attention over the same images epoch by epoch, with the predictions.

    Args:
        images: (B, 3, H, W), uint8 or float in 0..1.
        rows: Epoch, from 1 -> (B, P). If they do not all fit, evenly spaced epochs are drawn, including the first and
            the last.
        grid: (h, w), h * w = P.
        labels: (B,) int64.
        logits: Epoch -> (B, K).
        class_names: K names.
        width: Figure width in inches.
    """
    epochs = {f"epoch {epoch}": epoch for epoch in spaced(sorted(rows), most_columns(width))}
    truth = [int(label) for label in as_array(labels)]

    def below(title: str, index: int) -> tuple[str, str, str]:
        predicted, confidence = prediction(as_array(logits[epochs[title]])[index])
        mark, colour = ("✓", INK) if predicted == truth[index] else ("✗", AVERAGE)
        return f"{mark} {class_names[predicted]}", colour, f" ({confidence:.0%})"

    columns, names = {title: rows[epoch] for title, epoch in epochs.items()}, [class_names[one] for one in truth]
    return _figure(images, columns, grid, names, width, "below: the predicted class and its probability", below)


def most_columns(width: float) -> int:
    """Return how many panels beside an image fit in one line of `width` inches."""
    return next(columns for columns in count(1) if arrange(columns + 1, 1, width).lines > 1)


def spaced(values: Sequence[Any], most: int) -> list[Any]:
    """Choose at most `most` evenly spaced values, including the last, and also the first if `most` is above 1."""
    if most == 1:
        return list(values[-1:])
    chosen = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[position] for position in chosen]


def prediction(logits: np.ndarray) -> tuple[int, float]:
    """Return the predicted class of (K,) logits, and its softmax probability."""
    return int(logits.argmax()), float(1 / np.exp(logits.astype(np.float64) - logits.max()).sum())


def _figure(
    images: Any,
    columns: Mapping[str, Any],
    grid: Grid,
    names: Sequence[str],
    width: float,
    note: str,
    below: Callable[[str, int], tuple[str, str, str]] | None = None,
) -> Figure:
    """Draw a block per image; `below`: title and image -> note, its colour and number; None: the highest multiple."""
    pictures = [as_picture(image) for image in images]
    checked = {title: check_attention(rows, len(pictures), grid) for title, rows in columns.items()}
    drawn = [row for rows in checked.values() for row in rows] or [np.ones(1)]
    end, blocks = scale_end(drawn), []
    for index, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        blocks.append([Panel(picture, "image", name)])
        for title, rows in checked.items():
            said = below(title, index) if below else ("", INK, f"≤ {multiples(rows[index]).max():.1f}×")
            blocks[-1].append(Panel(attention_overlay(picture, rows[index], grid, end), title, *said))
    return panels_figure(blocks, width=width, notes=(*attention_notes(drawn), note), scale=end)


class Panel(NamedTuple):
    """One picture with a title above and a note below."""

    picture: np.ndarray  # (H, W, 3) in 0..1
    title: str
    note: str = ""
    colour: str = INK  # of the note
    number: str = ""  # behind the note, never shortened


class Arrangement(NamedTuple):
    """Arrangement of blocks with one picture and k panels in a width."""

    across: int  # blocks side by side
    columns: int  # panels side by side in a block, beside its picture
    lines: int  # of panels in a block
    side: float  # inches across one picture


def arrange(panels: int, blocks: int, width: float) -> Arrangement:
    """Arrange `blocks` blocks of a picture and `panels` panels in `width` inches.

    Several blocks per row if their pictures stay large, else one. The panels of a block are in one line if they stay
    readable, else in as few lines of about equal length as needed.
    """
    room = width - 2 * MARGIN
    block = (1 + panels) * (WISHED + GAP) - GAP
    across = min(blocks, max(1, int((room + BETWEEN) // (block + BETWEEN))))
    most = max(1, int((room + GAP) // (LEAST + GAP)) - 1)
    lines = 1 if across > 1 else -(-panels // most)
    columns = -(-panels // lines)
    free = room - (across - 1) * BETWEEN - across * columns * GAP
    return Arrangement(across, columns, lines, min(free / (across * (1 + columns)), LARGEST))


@our_style()
def panels_figure(
    blocks: Sequence[Sequence[Panel]], *, width: float = PAGE, notes: tuple[str, ...] = (), scale: float | None = None
) -> Figure:
    """Draw blocks of pictures of one size.

    Args:
        blocks: For each image its picture, then the panels to compare, the same number in all blocks.
        width: Figure width in inches.
        notes: Notes below the figure.
        scale: Upper end of the attention scale; None: no scale.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not blocks or len(blocks[0]) < 2:
        raise ValueError(
            f"nothing to draw: {len(blocks)} images with {len(blocks[0]) - 1 if blocks else 0} panels each"
        )
    placed = arrange(len(blocks[0]) - 1, len(blocks), width)
    tall, wide = blocks[0][0].picture.shape[:2]
    height = placed.side * tall / wide
    line = height + NOTE + (TITLE if placed.lines > 1 else 0)  # with several lines each panel has its title
    above = 0.05 if placed.lines > 1 else TITLE + 0.08
    block_height = placed.lines * line + GAP * 0.6
    page = Page(width, above + -(-len(blocks) // placed.across) * block_height - GAP * 0.6, notes, scale)
    block_width = (1 + placed.columns) * (placed.side + GAP) - GAP
    for number, block in enumerate(blocks):
        down, right = divmod(number, placed.across)
        left, top = MARGIN + right * (block_width + BETWEEN), above + down * block_height
        for position, panel in enumerate(block):
            row, column = (0, 0) if position == 0 else divmod(position - 1, placed.columns)
            x = left + (0 if position == 0 else 1 + column) * (placed.side + GAP)
            y = top + row * line + (TITLE if placed.lines > 1 else 0)
            draw_picture(page.axes(x, y, placed.side, height), panel.picture)
            centre, room = x + placed.side / 2, placed.side + GAP * 0.8
            if placed.lines > 1 or down == 0:
                title = shorten(panel.title, room, TEXT, "bold")
                page.text(centre, y - 0.05, title, ha="center", weight="bold")
            note = shorten(panel.note, room - text_width(panel.number, SMALL), SMALL) + panel.number
            page.text(centre, y + height + 0.1, note, ha="center", size=SMALL, color=panel.colour)
    return page.figure
