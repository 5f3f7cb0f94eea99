"""The figure of mixed pairs: both images, the mask, the mixed image, the class token's attention, and both labels.

A mixed batch is drawn so too, one row a sample, from the record that mixing makes.

Blue is image A and its class, orange image B, whose pixels were pasted in, in frames and bars alike. On a page the
bars stand beside the images, in a column below them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from transmix.visual.overlay import (
    Grid,
    as_array,
    as_picture,
    attention_notes,
    attention_overlay,
    check_attention,
    draw_outline,
    draw_picture,
    scale_end,
)
from transmix.visual.page import Page, shorten, text_width
from transmix.visual.palette import GAP, INK, MARGIN, OWN, PAGE, PARTNER, SMALL, TEXT, our_style

WIDE = 5.0  # inches from which the bars have room beside the images
BARS = 1.9  # inches of width that bars beside the images need
HEAD, LINE, BAR = 0.30, 0.17, 0.15
LARGEST, HIGHEST = 1.3, 1.75  # inches, of one image


class Share(NamedTuple):
    """The label of a sample: by area, by attention alone, or as trained."""

    rule: str  # 'area', 'attention' (or the name of another rule) alone, 'trained'
    own: float  # weight of the row's own class, 0..1; the partner's is 1 - own


def label_shares(
    area: float | None, evidence: float | None, trained: float | None, rule: str = "attention"
) -> list[Share]:
    """Return the label's shares in drawing order; None is left out."""
    weights = (("area", area), (rule, evidence), ("trained", trained))
    return [Share(name, own) for name, own in weights if own is not None]


def trained_note(weight: float | None, rule: str = "attention") -> str:
    """Return a note on how the trained label is computed; `weight` is that of the rule's evidence, if it has one."""
    if weight is None or weight == 1:
        return f"trained: labels by {rule}"
    return f"trained: {weight:.0%} {rule}, {1 - weight:.0%} area"


class Pair(NamedTuple):
    """One mixed sample to draw; parts that are None are left out."""

    own: np.ndarray | None  # (H, W, 3) in 0..1, image A
    partner: np.ndarray | None  # (H, W, 3) in 0..1, image B
    mixed: np.ndarray  # (H, W, 3) in 0..1
    mask: np.ndarray  # (H, W) bool or float in 0..1, B's share of each pixel
    attention: np.ndarray | None  # (P,) of the class token over the patches
    names: tuple[str, str]  # of A and B
    shares: Sequence[Share]


@our_style()
def pairs_figure(
    pairs: Sequence[Pair], grid: Grid | None, *, width: float = PAGE, mask: bool = False, notes: tuple[str, ...] = ()
) -> Figure:
    """Draw mixed pairs one below the other.

    Args:
        pairs: At least one pair; all images have the same size.
        grid: Patches (h, w), if there is attention.
        width: Figure width in inches.
        mask: Draw the mask too.
        notes: Other notes below the figure.
    """
    rows = [pair.attention for pair in pairs if pair.attention is not None]
    end = scale_end(rows) if rows else None
    columns = [_panels(pair, grid, mask, end) for pair in pairs]
    titles = [title for title, _, _ in columns[0]]
    has_box = any(pair.mask.any() for pair in pairs)
    rules = max((pair.shares for pair in pairs), key=len)
    heading = f"label: {', '.join(share.rule for share in rules)}" if has_box else "label"
    layout = _layout(width, len(titles), pairs[0].mixed.shape[:2], max(len(pair.shares) for pair in pairs))
    foot = _legend(pairs[0].own is not None, has_box) + (attention_notes(rows) if rows else ()) + notes
    page = Page(width, HEAD + len(pairs) * (layout.row + GAP) - GAP, foot, end)

    narrow = text_width("attention", TEXT, "bold") > layout.side
    for column, title in enumerate(titles):
        centre = MARGIN + column * (layout.side + layout.gap) + layout.side / 2
        size = SMALL if narrow else TEXT
        page.text(centre, HEAD - 0.1, title, ha="center", size=size, weight="bold")
    if width >= WIDE:
        page.text(layout.bars_left, HEAD - 0.1, heading, weight="bold")
    for line, (pair, panels) in enumerate(zip(pairs, columns, strict=True)):
        top = HEAD + line * (layout.row + GAP)
        for column, (_, picture, frame) in enumerate(panels):
            left = MARGIN + column * (layout.side + layout.gap)
            axes = page.axes(left, top, layout.side, layout.height)
            draw_picture(axes, picture, frame)
            if frame is None:
                draw_outline(axes, pair.mask >= 0.5)  # of a soft mask, where B has the larger share
        size = width - MARGIN - layout.bars_left, layout.bars_height
        bars = page.axes(layout.bars_left, top + layout.bars_top, *size)
        _draw_shares(bars, pair.shares, pair.names, size, stacked=width >= WIDE)
    return page.figure


def _panels(pair: Pair, grid: Grid | None, mask: bool, end: float | None) -> list[tuple[str, np.ndarray, str | None]]:
    """Return title, picture and frame colour of each panel; pictures without a frame get the outline of the box."""
    panels: list[tuple[str, np.ndarray, str | None]] = []
    if pair.own is not None and pair.partner is not None:
        panels += [("image A", pair.own, OWN), ("image B", pair.partner, PARTNER)]
    if mask:
        panels.append(("mask", pair.mask.astype(float), INK))
    panels.append(("mixed", pair.mixed, None))
    if pair.attention is not None and grid is not None and end is not None:
        panels.append(("attention", attention_overlay(pair.mixed, pair.attention, grid, end), None))
    return panels


class _Layout(NamedTuple):
    """Layout of one pair in inches; `row` is its total height."""

    side: float
    height: float
    gap: float
    row: float
    bars_left: float
    bars_top: float
    bars_height: float


def _layout(width: float, panels: int, size: tuple[int, int], shares: int) -> _Layout:
    beside = width >= WIDE
    gap = GAP if beside else GAP * 0.6
    free = width - 2 * MARGIN - (panels if beside else panels - 1) * gap - (BARS + GAP if beside else 0)
    side = min(free / panels, LARGEST if panels > 2 else LARGEST * 0.83)
    height = min(side * size[0] / size[1], HIGHEST)
    bars = (2 if beside else 1) * LINE + 0.05 + shares * (BAR + 0.07)
    if not beside:
        return _Layout(side, height, gap, height + 0.06 + bars, MARGIN, height + 0.06, bars)
    row = max(height, bars)
    return _Layout(side, height, gap, row, MARGIN + panels * (side + gap) + GAP, 0.0, row)


def _legend(with_images: bool, with_box: bool) -> tuple[str, ...]:
    border = ("white line: border of B's pixels",) if with_box else ()
    if with_images:
        return "blue: image A and its class", "orange: image B and its class", *border
    return "blue: the image's own class A", "orange: the class B of what was mixed in", *border


def _draw_shares(
    axes: Axes, shares: Sequence[Share], names: tuple[str, str], size: tuple[float, float], stacked: bool
) -> None:
    """Write both names, one below the other or beside it, and draw a bar per rule, in a panel of `size` inches."""
    width, height = size
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    rule_width, number, step = 0.56, 0.36, BAR + 0.07
    top = (height - (2 if stacked else 1) * LINE - 0.05 - len(shares) * step) / 2
    room = width if stacked else width / 2
    for position, (letter, name, colour) in enumerate(zip("AB", names, (OWN, PARTNER), strict=True)):
        left, y = (0.0, top + position * LINE) if stacked else (position * room, top)
        axes.add_patch(Rectangle((left, y + 0.035), 0.1, 0.1, color=colour, linewidth=0))
        text = shorten(f"{letter}: {name}", room - 0.19, TEXT)
        axes.text(left + 0.16, y + LINE / 2, text, size=TEXT, color=INK, va="center_baseline", parse_math=False)
    top += (2 if stacked else 1) * LINE + 0.05
    left, length = rule_width + number, width - rule_width - 2 * number
    for share in shares:
        middle = top + BAR / 2
        own = round(100 * share.own)
        style: dict[str, Any] = {"size": TEXT, "color": INK, "va": "center_baseline"}
        axes.text(0, middle, share.rule, **style)
        axes.text(left - 0.05, middle, f"{own}%", ha="right", **style)
        for start, part, colour in ((0, share.own, OWN), (share.own, 1 - share.own, PARTNER)):
            axes.add_patch(Rectangle((left + length * start, top), length * part, BAR, color=colour, linewidth=0))
        axes.text(left + length + 0.05, middle, f"{100 - own}%", ha="left", **style)
        top += step


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
        two = row, int(partner[row])
        own, other = (None if base_images is None else as_picture(base_images[one]) for one in two)
        names = class_names[int(labels[two[0]])], class_names[int(labels[two[1]])]
        shown = own, other, as_picture(mixed.images[row]), row_mask(mixed, row), looked[row]
        pairs.append(Pair(*shown, names, row_shares(mixed, row)))
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
