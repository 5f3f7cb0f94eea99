"""transmix models: which models are read, where, and how well; shown from a table that comes with the package."""

import difflib
from dataclasses import dataclass
from typing import Annotated

import tyro

from transmix.cli.options import parse
from transmix.models.readable import model_text, read_table
from transmix.recipes import RecipeError

TITLES = ("family", "library", "model", "read", "module", "grid", "difference", "compiled", "overhead")


@dataclass(frozen=True)
class Models:
    """List the models whose attention TransMix reads, and models that it refuses, as they were measured.

      read: what asks: the class token, a class-attention layer, an attention pool, or a class-attention head that
        transmix.attention.with_class_attention(model) puts in place of the average pooling
      grid: patches of an image of 224 x 224 pixels, or of the size that is given
      difference: largest difference from an explicit softmax
      compiled: whether torch.compile(fullgraph=True) works with reading
      overhead: time of a training step with reading over the time without

    A model that is not listed may be readable too. For one that is not, an error says what to do.
    """

    filter: Annotated[str, tyro.conf.Positional, "models"] = ""
    """Show only rows whose family, library or model contains this word: swin, torchvision, deit_tiny, ..."""


def main(arguments: list[str]) -> None:
    """Show the rows that a filter leaves."""
    _show(_holding(parse(Models, "models", arguments).filter))


def _holding(word: str) -> list[dict[str, str]]:
    rows = read_table()
    found = [row for row in rows if any(word.lower() in row[name].lower() for name in ("family", "library", "model"))]
    if not found:
        names = {row[name].lower(): row[name] for name in ("family", "library", "model") for row in rows}
        near = [names[close] for close in difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.5)]
        hint = f"the nearest names are {', '.join(near)}" if near else "transmix models lists them all"
        raise RecipeError(f"no listed model, family or library holds {word!r}; {hint}")
    return found


def _show(rows: list[dict[str, str]]) -> None:
    read = [row for row in rows if row["read"] != "refused"]
    refused = [row for row in rows if row["read"] == "refused"]
    if read:
        print(_table([TITLES, *map(_cells, read)]))
    if refused:
        print(("\n" if read else "") + "refused:")
        for row in refused:
            print(f"  {row['library']} {model_text(row)}: {row['refusal']}")


def _cells(row: dict[str, str]) -> tuple[str, ...]:
    grid = row["grid"] + (f" at {row['size']}" if row["size"] != "224" else "")
    return tuple({**row, "model": model_text(row), "grid": grid}[title] for title in TITLES)


def _table(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines)
