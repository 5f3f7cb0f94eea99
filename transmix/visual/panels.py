"""Figures of many small pictures: one block per image, its picture at the left and the panels to compare beside it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from transmix.visual.overlay import draw_picture
from transmix.visual.page import Page, shorten, text_width
from transmix.visual.palette import GAP, INK, MARGIN, PAGE, SMALL, TEXT, our_style

LEAST, WISHED, LARGEST = 0.62, 0.95, 2.15  # inches across one picture
BETWEEN = 0.24  # inches between two blocks side by side
TITLE, NOTE = 0.17, 0.14  # inches of height


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
