"""A page with everything placed in inches, so that texts do not overlap; and saving of figures."""

from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

from transmix.printable import printable
from transmix.printable import shorten as shortened
from transmix.visual.overlay import tinted
from transmix.visual.palette import INK, MARGIN, PALE, SMALL, TEXT, our_style

FORMATS = (".png", ".svg")
FOOT_LINE = 0.125  # inches from one line of the foot to the next
SCALE = 0.42  # inches of height that the scale of attention takes
SLACK = 0.96  # of a width that a text may fill: hinting, and the fonts of whoever opens an SVG, make it a little wider


@our_style()
def save_figure(figure: Figure, path: str | Path, dpi: int = 220) -> None:
    """Save a figure as PNG or SVG, atomically; SVG keeps text as text.

    Raises:
        ValueError: The path has another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"a figure is saved as .png or .svg, got {str(path)!r}")
    metadata = {"Date": None} if suffix == ".svg" else None
    temporary = Path(path).with_name(f"{Path(path).name}.tmp")  # a run killed here must not leave half a picture
    try:
        figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=metadata)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Page:
    """A white figure with coordinates in inches from its upper left corner; use it inside `our_style`.

    Args:
        width: Figure width in inches.
        height: Figure height in inches, without the foot.
        foot: Sentences at the bottom, wrapped into lines.
        scale: Upper end of the attention scale, drawn above the foot.
    """

    def __init__(self, width: float, height: float, foot: tuple[str, ...] = (), scale: float | None = None) -> None:
        lines = wrap(foot, width - 2 * MARGIN, SMALL)
        foot_top = height + (SCALE if scale is not None else 0.0)
        self.width, self.height = width, foot_top + (FOOT_LINE * len(lines) + 0.14 if lines else 0.0)
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        if scale is not None:
            bar = self.axes(2 * MARGIN, height + 0.16, min(1.6, width - 4 * MARGIN), 0.09)
            bar.set_axis_on()
            bar.imshow(tinted(np.full((1, 200, 3), 0.5), np.linspace(0, 1, 200)[None]), extent=(0, scale, 0, 1))
            bar.set(aspect="auto", yticks=[])
            bar.grid(visible=False)
            bar.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            bar.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        for number, line in enumerate(lines):
            self.text(MARGIN, foot_top + 0.15 + number * FOOT_LINE, line, size=SMALL, color=PALE, va="center")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes without frame or ticks."""
        bottom = self.height - top - height
        place = left / self.width, bottom / self.height, width / self.width, height / self.height
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        return axes

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        """Write a line of text; dollar signs are literal."""
        style = {"size": TEXT, "color": INK, "va": "baseline", "parse_math": False} | style
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a text in inches at a font size in points."""
    font = FontProperties(size=size, weight=weight)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def shorten(name: str, width: float, size: float, weight: str = "normal") -> str:
    """Cut the middle of a name that is wider than `width` inches at a font size in points."""
    name, width = printable(" ".join(name.split())), width * SLACK
    if text_width(name, size, weight) <= width:
        return name
    most = range(1, len(name))
    fits = bisect_left(most, True, key=lambda kept: text_width(shortened(name, kept), size, weight) > width)
    return shortened(name, max(fits, 1))


def wrap(sentences: tuple[str, ...], width: float, size: float) -> list[str]:
    """Wrap sentences, separated by dots, into lines of at most `width` inches."""
    width = width * SLACK
    lines: list[str] = []
    for sentence in sentences:
        if lines and text_width(f"{lines[-1]} · {sentence}", size) <= width:
            lines[-1] += f" · {sentence}"
            continue
        line = ""
        for word in sentence.split():
            if line and text_width(f"{line} {word}", size) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines
