"""transmix models: list the models whose attention can be read, from a table of the package."""

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
    """List the models whose attention TransMix can read, and models that it rejects, with measurements.

      read: the query: the class token, a class-attention layer, an attention pool, or a class-attention head that
        transmix.attention.with_class_attention(model) puts in place of the average pooling
      grid: patch grid of an image of 224 x 224 pixels, or of the given size
      difference: largest difference from an explicit softmax
      compiled: whether torch.compile(fullgraph=True) works with reading
      overhead: time of a training step with reading over the time without

    Models that are not listed may work too. If a model does not, the error message says what to do.
    """

    filter: Annotated[str, tyro.conf.Positional, "models"] = ""
    """Show only rows whose family, library or model contains this word: swin, torchvision, deit_tiny, ..."""


def main(arguments: list[str]) -> None:
    """Show the rows that match a filter."""
    found = _holding(parse(Models, "models", arguments).filter)
    read = [row for row in found if row["read"] != "refused"]
    if read:
        lines = [TITLES, *map(_cells, read)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for cells in lines:
            print("  ".join(map(str.ljust, cells, widths)).rstrip())
    if len(read) < len(found):
        print(("\n" if read else "") + "refused:")
    for row in found:
        if row["read"] == "refused":
            print(f"  {row['library']} {model_text(row)}: {row['refusal']}")


def _holding(word: str) -> list[dict[str, str]]:
    rows, columns = read_table(), ("family", "library", "model")
    found = [row for row in rows if any(word.lower() in row[name].lower() for name in columns)]
    if not found:
        names = {row[name].lower(): row[name] for name in columns for row in rows}
        near = [names[close] for close in difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.5)]
        hint = f"the nearest names are {', '.join(near)}" if near else "transmix models lists them all"
        raise RecipeError(f"no listed model, family or library holds {word!r}; {hint}")
    return found


def _cells(row: dict[str, str]) -> tuple[str, ...]:
    grid = row["grid"] + (f" at {row['size']}" if row["size"] != "224" else "")
    return tuple({**row, "model": model_text(row), "grid": grid}[title] for title in TITLES)
