"""The picture of a mixed batch: both images, what came out, where the class token looked, and both labels.

One row a sample. Blue is the row's own image A and its class, orange the partner B whose pixels were pasted
in, in frames and bars alike. What is drawn is computed by small functions of NumPy arrays, which can be
checked without looking at pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextToPath

OWN, PARTNER = "#0072B2", "#E69F00"  # of Okabe and Ito: colour-blind readers tell them apart
INK, PALE = "#222222", "#666666"

# everything is placed in inches, so that no text can run into another whatever the number of rows and columns
WIDTH, MARGIN, GAP = 7.0, 0.08, 0.10
HEAD, FOOT = 0.30, 0.34
IMAGE_WIDTH, LOWEST_ROW, HIGHEST_ROW = 1.08, 0.92, 1.75
TEXT, SMALL = 7.5, 6.5  # points


class Share(NamedTuple):
    """How one rule splits a sample's label."""

    rule: str  # 'area', 'attention', or 'mixed' where there is no box
    own: float  # weight of the row's own class, 0..1
    partner: float  # weight of the partner's class, 1 - own


def draw_mixed_batch(
    path: str | Path,
    mixed: Any,
    attention: Any,
    grid: tuple[int, int] | None,
    class_names: Sequence[str],
    *,
    base_images: Any = None,
    rows: int = 6,
) -> None:
    """Draw a mixed batch with its labels by area and by attention, and save it as PNG or SVG.

    Columns: image A and image B (if `base_images` is given), the mixed image with the box outlined, the
    attention over it (if `attention` is given), and the label by both rules.

    Args:
        path: File to write, ending in .png or .svg.
        mixed: The mixed batch, a `transmix.mixing.Mixed`: images (B, 3, H, W), uint8 or float in 0..1; labels
            (B,) int64; partner (B,) int64; lam and lam_area (B,), weight of the own label; mask (B or 1, H, W),
            true where the partner's pixels are, or None.
        attention: (B, P) attention of the class token over the patches, row by row of the grid, or None.
        grid: Patches (h, w), h * w = P; needed with `attention`.
        class_names: K names.
        base_images: (B, 3, H, W) the batch before mixing, or None.
        rows: Samples to draw at most, those first whose label the attention changed most.

    Raises:
        ValueError: If shapes do not fit together, float images leave 0..1, attention is negative or not finite,
            labels have no name, or the path ends in something else.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise ValueError(f"a figure is saved as .png or .svg, got {str(path)!r}")
    figure = mixed_batch_figure(mixed, attention, grid, class_names, base_images=base_images, rows=rows)
    figure.savefig(path, format=suffix[1:], dpi=220)


def mixed_batch_figure(
    mixed: Any,
    attention: Any,
    grid: tuple[int, int] | None,
    class_names: Sequence[str],
    *,
    base_images: Any = None,
    rows: int = 6,
) -> Figure:
    """Make the figure that `draw_mixed_batch` saves; the arguments are the same."""
    _check(mixed, base_images, class_names, rows)
    labels, partner = _array(mixed.labels), _array(mixed.partner)
    attention = None if attention is None else _attention(attention, len(labels), grid)

    chosen = choose_rows(mixed, rows)
    titles = [*(["image A", "image B"] if base_images is not None else []), "mixed"]
    titles += ["attention"] if attention is not None else []
    height, width = mixed.images.shape[-2:]
    row_height = min(max(IMAGE_WIDTH * height / width, LOWEST_ROW), HIGHEST_ROW)
    page = _Page(len(chosen), row_height)
    bars_left = MARGIN + len(titles) * (IMAGE_WIDTH + GAP) + GAP

    for column, title in enumerate(titles):
        page.title(MARGIN + column * (IMAGE_WIDTH + GAP) + IMAGE_WIDTH / 2, title, "center")
    has_box = any(box_of(row_mask(mixed, row)) for row in chosen)
    page.title(bars_left, "label by area and by attention" if has_box else "label", "left")
    for line, row in enumerate(chosen):
        mask = row_mask(mixed, row)
        panels: list[tuple[np.ndarray, str | None]] = []
        if base_images is not None:
            panels += [(_picture(base_images[row]), OWN), (_picture(base_images[int(partner[row])]), PARTNER)]
        picture = _picture(mixed.images[row])
        panels.append((picture, None))
        if attention is not None and grid is not None:
            panels.append((attention_overlay(picture, attention[row], grid), None))
        for column, (picture, frame) in enumerate(panels):
            axes = page.axes(line, MARGIN + column * (IMAGE_WIDTH + GAP), IMAGE_WIDTH)
            _draw_image(axes, picture, frame)
            if frame is None:
                _outline(axes, mask)
        names = class_names[int(labels[row])], class_names[int(labels[partner[row]])]
        bars = page.axes(line, bars_left, WIDTH - MARGIN - bars_left)
        _draw_shares(bars, label_shares(mixed, row), names, (WIDTH - MARGIN - bars_left, row_height))
    page.foot(attention is not None, has_box)
    return page.figure


# --- what is drawn, as numbers


def choose_rows(mixed: Any, rows: int) -> list[int]:
    """Choose at most `rows` samples, first those whose label by attention differs most from that by area."""
    change = np.abs(_array(mixed.lam) - _array(mixed.lam_area))
    return np.argsort(-change, kind="stable")[:rows].tolist()


def row_mask(mixed: Any, row: int) -> np.ndarray:
    """Give where the partner's pixels are in one sample: (H, W) bool, all false if the batch has no boxes."""
    if mixed.mask is None:
        return np.zeros(mixed.images.shape[-2:], dtype=bool)
    return _array(mixed.mask[row if len(mixed.mask) > 1 else 0]) != 0


def label_shares(mixed: Any, row: int) -> list[Share]:
    """Give the label of one sample by area and by attention, or only as mixed if it has no box."""
    lam, area = float(mixed.lam[row]), float(mixed.lam_area[row])
    if not row_mask(mixed, row).any():
        return [Share("mixed", lam, 1 - lam)]
    return [Share("area", area, 1 - area), Share("attention", lam, 1 - lam)]


def attention_map(attention: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Bring one sample's attention (P,) to its pixels (H, W) by nearest neighbour, divided by its maximum.

    Zero stays zero, so that even attention looks even and brightness is proportional to attention.
    """
    (h, w), (height, width) = grid, size
    patches = attention.reshape(h, w)
    pixels = patches[np.arange(height) * h // height][:, np.arange(width) * w // width]
    highest = pixels.max()
    return pixels / highest if highest > 0 else np.zeros_like(pixels)


def attention_overlay(image: np.ndarray, attention: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Lay the colours of the attention (P,) over the greyed image (H, W, 3): (H, W, 3) in 0..1."""
    grey = (image @ [0.299, 0.587, 0.114])[..., None]
    colour = matplotlib.colormaps["magma"](attention_map(attention, grid, image.shape[:2]))[..., :3]
    return 0.4 * grey + 0.6 * colour


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Give the smallest box (left, top, width, height) around a mask (H, W) in pixels, or None if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def mask_edges(mask: np.ndarray) -> np.ndarray:
    """Give the pixel sides between inside and outside of a mask (H, W) as lines: (S, 2, 2), points (x, y)."""
    padded = np.pad(mask, 1).astype(np.int8)
    y, x = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    across = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    y, x = np.nonzero(np.diff(padded, axis=1)[1:-1])
    down = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    return np.concatenate([across, down]) - 0.5  # a pixel's centre has whole coordinates


def shorten(name: str, width: float, size: float) -> str:
    """Cut a class name to a width in inches at a font size in points; an ellipsis says that some is lost."""
    name = " ".join(name.split())
    if _text_width(name, size) <= width:
        return name
    while name and _text_width(name + "…", size) > width:
        name = name[:-1].rstrip(" ,")
    return name + "…"


# --- drawing


class _Page:
    """A figure of rows, with places in inches from its upper left corner."""

    def __init__(self, rows: int, row_height: float) -> None:
        self.row_height = row_height
        self.height = HEAD + rows * row_height + (rows - 1) * GAP + FOOT
        self.figure = Figure(figsize=(WIDTH, self.height), facecolor="white")

    def axes(self, row: int, left: float, width: float) -> Axes:
        bottom = self.height - HEAD - row * (self.row_height + GAP) - self.row_height
        place = left / WIDTH, bottom / self.height, width / WIDTH, self.row_height / self.height
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        return axes

    def title(self, left: float, text: str, align: str) -> None:
        y = 1 - (HEAD - 0.1) / self.height
        self.figure.text(left / WIDTH, y, text, ha=align, va="baseline", size=TEXT, weight="bold", color=INK)

    def foot(self, with_attention: bool, with_box: bool) -> None:
        lines = "blue: the row's own image A and class · orange: its partner B and class"
        notes = ["white line: border of B's pixels"] if with_box else []
        notes += ["attention: black none, light the most of the sample"] if with_attention else []
        text = "\n".join([lines, " · ".join(notes)]) if notes else lines
        self.figure.text(MARGIN / WIDTH, 0.06 / self.height, text, va="bottom", size=SMALL, color=PALE)


def _draw_image(axes: Axes, picture: np.ndarray, frame: str | None) -> None:
    height, width = picture.shape[:2]
    # the pixels of a small image should be seen as they are; a large one is scaled down, which needs a filter
    axes.imshow(picture, interpolation="nearest" if max(height, width) <= 64 else "hanning")
    if frame is not None:
        place = (-0.5, -0.5), width, height
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=frame, linewidth=2, clip_on=False))


def _outline(axes: Axes, mask: np.ndarray) -> None:
    box = box_of(mask)
    if box is None:
        return
    # white within black is seen on every image
    style: dict[str, Any] = {"linewidth": 1.2, "clip_on": False}
    style["path_effects"] = [withStroke(linewidth=2.6, foreground="black")]
    left, top, width, height = box
    if mask.sum() == width * height:
        place = (left - 0.5, top - 0.5), width, height
        axes.add_patch(Rectangle(*place, fill=False, edgecolor="white", **style))
    else:
        axes.add_collection(LineCollection(mask_edges(mask).tolist(), colors="white", **style), autolim=False)


def _draw_shares(axes: Axes, shares: list[Share], names: tuple[str, str], size: tuple[float, float]) -> None:
    """Write both class names and draw a bar per rule, in a panel of `size` (width, height) inches."""
    width, height = size
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    line, bar, rule_width, number = 0.17, 0.15, 0.56, 0.36
    step = bar + 0.07
    top = (height - 2 * line - 0.05 - len(shares) * step) / 2
    for letter, name, colour in zip("AB", names, (OWN, PARTNER), strict=True):
        axes.add_patch(Rectangle((0, top + 0.035), 0.1, 0.1, color=colour, linewidth=0))
        text = shorten(f"{letter}: {name}", width - 0.17, TEXT)
        axes.text(0.16, top + line / 2, text, size=TEXT, color=INK, va="center_baseline", parse_math=False)
        top += line
    top += 0.05
    left, length = rule_width + number, width - rule_width - 2 * number
    for share in shares:
        middle = top + bar / 2
        own = round(100 * share.own)
        style: dict[str, Any] = {"size": TEXT, "color": INK, "va": "center_baseline"}
        axes.text(0, middle, share.rule, **style)
        axes.text(left - 0.05, middle, f"{own}%", ha="right", **style)
        axes.add_patch(Rectangle((left, top), length * share.own, bar, color=OWN, linewidth=0))
        axes.add_patch(
            Rectangle((left + length * share.own, top), length * share.partner, bar, color=PARTNER, linewidth=0)
        )
        axes.text(left + length + 0.05, middle, f"{100 - own}%", ha="left", **style)
        top += step


def _text_width(text: str, size: float) -> float:
    """Give the width of a text in inches."""
    return TextToPath().get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0] / 72


# --- reading the input


def _array(values: Any) -> np.ndarray:
    """Make a NumPy array of a tensor, on any device and of any type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def _picture(image: Any) -> np.ndarray:
    """Make (H, W, 3) float in 0..1 of an image (3, H, W)."""
    pixels = _array(image)
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    elif not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
        raise ValueError(
            f"float images must lie in 0..1, got {pixels.min():.3g}..{pixels.max():.3g}: undo their normalisation"
        )
    return pixels.clip(0, 1).transpose(1, 2, 0)


def _attention(attention: Any, batch: int, grid: tuple[int, int] | None) -> np.ndarray:
    values = _array(attention)
    if grid is None:
        raise ValueError("attention needs its grid (h, w)")
    if values.shape != (batch, grid[0] * grid[1]):
        raise ValueError(
            f"expected attention {(batch, grid[0] * grid[1])} for {batch} images and a grid of {tuple(grid)}, "
            f"got {values.shape}"
        )
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("attention must be finite and not negative")
    return values


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
