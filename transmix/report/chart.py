"""Charts as inline SVG: they take the page's colours, light or dark, and stay sharp in print.

All sizes are in the units of the view box, of which one is about a pixel on the page.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 8, 24
MOST_POINTS = 300
"""Points of a curve; longer ones are drawn as means of neighbours."""

Curve = tuple[Sequence[float], Sequence[float]]

LOOKS = {"training": "training", "validation": "model", "validation, EMA": "average"}
"""Curve -> how it looks (classes of the style sheet), by colour, dashes and marks."""


def line_chart(title: str, curves: Mapping[str, Curve], write: Callable[[float], str], end: float) -> Markup:
    """Draw curves from 0 to `end`; a value that is not finite leaves a gap.

    Args:
        title: what is drawn; with the first and last values it is what a screen reader says.
        curves: name, one of LOOKS -> (steps, values).
        write: makes text of a value.
        end: where the axis of the steps ends.
    """
    known = [value for _, values in curves.values() for value in values if math.isfinite(value)]
    if not known:
        return Markup('<p class="note">{}: no value is a finite number.</p>').format(title)
    ticks = nice_ticks(min(known), max(known), 4)
    low, high = min(ticks[0], min(known)), max(ticks[-1], max(known))
    across, up = _scale(0, end, LEFT, WIDTH - RIGHT), _scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [_grid(ticks, up, write)]
    steps = [step for step in nice_ticks(0, end, 4, whole=True) if step <= end]
    parts += [_text(across(step), HEIGHT - 7, decimal_tick(step), "middle") for step in steps]
    said = []
    for name, (steps, values) in curves.items():
        parts.append(_curve(steps, values, across, up, LOOKS[name]))
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            said.append(f"{name} from {write(finite[0])} to {write(finite[-1])}")
    return _svg(f"{title} over the optimizer steps: {'; '.join(said)}", parts)


def reliability_chart(count: Sequence[int], accuracy: Sequence[float], confidence: Sequence[float]) -> Markup:
    """Draw accuracy against confidence bin by bin, and below it how many images are in each.

    Args:
        count: images in each of M bins of equal width.
        accuracy: 0..1 of each; whatever, where a bin is empty.
        confidence: mean of each, 0..1; likewise.
    """
    bins, width, main, low = len(count), 420, 300, 70
    height = main + low + 16
    across = _scale(0, 1, LEFT, width - RIGHT)
    up, down = _scale(0, 1, main - BOTTOM + 8, TOP), _scale(0, max(count), height - BOTTOM, main + 2)
    parts = [_grid([0, 0.25, 0.5, 0.75, 1], up, lambda share: f"{share:.0%}", width)]
    each = across(1 / bins) - across(0)
    for at, images in enumerate(count):
        if not images:
            continue
        left, top, mean = across(at / bins) + 1, up(accuracy[at]), up(confidence[at])
        parts.append(_box(left, top, each - 2, up(0) - top, "bar"))
        parts.append(_box(left, down(images), each - 2, down(0) - down(images), "images"))
        middle = left + each / 2 - 1
        parts.append(f'<path class="gap" d="M{middle:.1f} {top:.1f}V{mean:.1f}"/>')
        parts.append(f'<path class="mean" d="M{left + 2:.1f} {mean:.1f}h{each - 6:.1f}"/>')
    parts.append(f'<path class="even" d="M{across(0)} {up(0)}L{across(1)} {up(1)}"/>')
    parts.append(f'<path class="axis" d="M{LEFT} {down(0)}H{width - RIGHT}"/>')
    parts += [_text(across(share), height - 7, f"{share:.0%}", "middle") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_text(LEFT - 6, down(max(count)) + 4, f"{max(count):,}", "end"), _text(LEFT - 6, down(0) + 4, "0", "end")]
    return _svg("Accuracy against confidence; the numbers are in the table below", parts, width, height)


def swatch(look: str) -> Markup:
    """Draw a piece of a curve, for a legend."""
    mark = _mark(14, 6, look)
    line = f'<path class="line {look}" d="M1 6H27"/>'
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">{line}{mark}</svg>'
    )


def thinned(steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS) -> Curve:
    """Replace neighbours by their mean until at most `most` points are left; a gap among them makes a gap."""
    group = -(-len(steps) // most)
    if group <= 1:
        return steps, values
    cut = range(0, len(steps), group)
    mean_steps = [sum(steps[at : at + group]) / len(steps[at : at + group]) for at in cut]
    return mean_steps, [sum(values[at : at + group]) / len(values[at : at + group]) for at in cut]


def nice_ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Return about so many round numbers that hold low and high between them."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    step = max(round(step), 1) if whole else step
    return [at * step for at in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def decimal_tick(value: float) -> str:
    """Write a number of steps beside an axis: 12500 -> '12.5k'."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / ((high - low) or 1) * (end - start), 1)


def _grid(ticks: Sequence[float], up: Callable, write: Callable[[float], str], width: float = WIDTH) -> str:
    return "".join(
        f'<path class="rule" d="M{LEFT} {up(tick)}H{width - RIGHT}"/>'
        + _text(LEFT - 6, up(tick) + 4, write(tick), "end")
        for tick in ticks
    )


def _curve(steps: Sequence[float], values: Sequence[float], across: Callable, up: Callable, look: str) -> str:
    path, marks, pen = [], [], "M"
    for step, value in zip(*thinned(steps, values), strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        path.append(f"{pen}{across(step):g} {up(value):g}")
        marks.append((across(step), up(value)))
        pen = "L"
    few = len(marks) <= 40 and look != "training"
    alone = len(marks) == 1  # a line of one point is not seen
    drawn = "".join(_mark(x, y, look if look != "training" else "model") for x, y in marks) if few or alone else ""
    return f'<path class="line {look}" d="{"".join(path)}"/>{drawn}'


def _mark(x: float, y: float, look: str) -> str:
    if look == "model":
        return f'<circle class="mark model" cx="{x:g}" cy="{y:g}" r="2.4"/>'
    return f'<path class="mark average" d="M{x - 2.2:.1f} {y - 2.2:.1f}h4.4v4.4h-4.4z"/>' if look == "average" else ""


def _box(left: float, top: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(says: str, parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> Markup:
    return Markup(f'<svg role="img" viewBox="0 0 {width} {height}" aria-label="{escape(says)}">{"".join(parts)}</svg>')
