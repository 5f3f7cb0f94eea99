"""Format numbers for readers, each on one line with its unit."""

from typing import Any

from transmix.metrics import log_metrics, written
from transmix.report.page import NO_BREAK, shorten


def score(name: str, value: Any) -> str:
    """Format a value of the log by its name, with the table of metrics."""
    return log_metrics()[name].write(value).replace(" ", NO_BREAK)


def percent(value: Any, digits: int = 2) -> str:
    """Format a fraction in 0..1: 0.9194 -> '91.94 %'."""
    return written(value, lambda share: f"{100 * share:.{digits}f}{NO_BREAK}%")


def points(value: Any) -> str:
    """Format a difference of fractions: 0.114 -> '11.4 points'."""
    return written(value, lambda share: f"{100 * share:.1f}{NO_BREAK}points")


def decimal(value: Any) -> str:
    """Format a number with four significant digits, as short as possible, with thousands separators."""
    return written(value, lambda real: f"{real:,.0f}" if abs(real) >= 1000 or real == int(real) else f"{real:.4g}")


def whole(value: Any) -> str:
    """Format a count with thousands separators."""
    return written(value, lambda count: f"{count:,.0f}")


def duration(seconds: Any) -> str:
    """Format a duration: 129 -> '2 min 9 s'."""
    return written(seconds, _duration)


def size(count: Any) -> str:
    """Format a number of bytes: 739936 -> '740 kB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if type(count) in (int, float) and count >= factor:
            return f"{count / factor:.3g}{NO_BREAK}{unit}"
    return written(count, lambda few: f"{few:.0f}{NO_BREAK}bytes")


def setting(value: Any, depth: int = 2) -> str:
    """Format a setting as in a recipe; long or deeply nested values are cut to one line."""
    if isinstance(value, dict | list | tuple) and not depth:
        text = "…"
    elif isinstance(value, dict):
        text = ", ".join(f"{name}={setting(part, depth - 1)}" for name, part in list(value.items())[:20]) or "none"
    elif isinstance(value, list | tuple):
        text = ", ".join(setting(part, depth - 1) for part in value[:20]) or "none"
    elif isinstance(value, bool) or value is None:
        text = {True: "yes", False: "no", None: "none"}[value]
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return shorten(text, 300)


def plural(count: int, one: str, many: str = "") -> str:
    """Format a count with its noun: '1 step', '3 steps'."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    first = next(at for at, (count, _) in enumerate(parts) if count)
    return NO_BREAK.join(f"{count}{NO_BREAK}{unit}" for count, unit in parts[first : first + 2] if count)
