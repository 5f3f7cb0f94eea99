"""How figures and where they come from are written in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from transmix.compare.statistics import Difference
from transmix.metrics import NONE


def origin(name: str, command: str | None, environments: Iterable[dict[str, Any]], seeds: Sequence[Any]) -> str:
    """Say where figures come from: what runs agree on once, what they differ in with all its values."""
    environments = list(environments)

    def values(key: str) -> str:
        found = list(dict.fromkeys(str(one[key]) for one in environments if one.get(key) is not None))
        return ", ".join(map(cell, found)) or "not recorded"

    versions = [
        ", ".join(f"{key} {value}" for key, value in (one.get("packages") or {}).items()) for one in environments
    ]
    machine = values("device")
    for key, words in (("cores", "cores"), ("threads", "threads"), ("system", "")):
        if values(key) != "not recorded":
            machine += f", {values(key)} {words}".rstrip()
    lines = {
        "command": f"`{command}`" if command else "not recorded",
        "commit": values("commit"),
        "seeds": ", ".join(map(str, seeds)) or "none",
        "machine": machine,
        "versions": f"Python {values('python')}; " + ("; ".join(map(cell, dict.fromkeys(versions))) or "not recorded"),
        "file": link(name),
    }
    return "".join(f"- {key}: {value}\n" for key, value in lines.items())


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table, the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in (heads, rule, *rows))


def read_difference(values: dict[str, Any]) -> Difference:
    """Return a difference as it was before it was written to JSON."""
    moments = (values[key] for key in ("mean", "sd", "low", "high", "p"))
    return Difference(tuple(values["seeds"]), tuple(values["each"]), *moments)


def ratio(value: float | None, quartiles: Sequence[float] | None) -> str:
    """Write a ratio with its quartiles."""
    if value is None:
        return NONE
    return f"{value:.3f}" + (f" ({quartiles[0]:.3f} to {quartiles[1]:.3f})" if quartiles else "")


def figure(value: Any, decimals: int) -> str:
    """Write a number, another value as it is, and – for none."""
    if isinstance(value, float):
        return f"{value:.{decimals}f}"
    return NONE if value is None else cell(str(value))


def title(name: str) -> str:
    """Return a file's or benchmark's name as a heading."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def cell(text: str) -> str:
    """Return a text that a table and Markdown show as it is, on one line."""
    text = " ".join(text.split())
    for letter in r"\`*_|<>[]":
        text = text.replace(letter, f"\\{letter}")
    return text


def link(name: str) -> str:
    """Return a link to a file of figures, from docs/."""
    return f"[benchmarks/results/{name}](../benchmarks/results/{name})"
