"""Measure what the library reads of every listed model; write transmix/models/readable.csv and docs/models.md.

    python scripts/models.py                             every row, everything (`make models`)
    python scripts/models.py --family Swin CaiT          these families again, the other rows as they are
    python scripts/models.py --no-overhead               leave the times as they are

The module, the grid and the refusals come from the published sizes on the meta device, which computes nothing. The
difference and the compilation come from small versions, the times from benchmarks/reading_overhead.py.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from explicit import explicit_attention, sharpen
from readable import COLUMNS, READABLE, REFUSED, Readable, build, example
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transmix.attention import AttentionError, AttentionReader
from transmix.models.readable import model_text, read_table

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "transmix" / "models" / "readable.csv"
PAGE = ROOT / "docs" / "models.md"
TIMES = ROOT / "benchmarks" / "results" / "reading_overhead_cpu.json"
CLOSE = 1e-4
"""A compiled model's row may be this far from the eager softmax: the compiler reorders the model's own arithmetic."""

KINDS = {
    "class token": "Its row in the last block.",
    "class attention": "A layer whose only query is the class token.",
    "attention pool": "One query that is no token: learned, or the mean patch.",
    "class-attention head": "Put in place of the average pooling by `transmix.attention.with_class_attention(model)`, "
    "for models\nwithout a class token.",
}
"""What is read -> who asks."""

Row = dict[str, str]
Key = tuple[str, ...]


def main() -> None:
    """Measure, and write the table after every row and the page at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", help="measure only families whose names hold one of these words")
    parser.add_argument("--no-overhead", action="store_true", help="measure no times")
    parser.add_argument("--threads", type=int, help="threads of torch, for the times too (as torch chooses)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = {key_of_row(row): row for row in read_table()} if TABLE.exists() else {}
    wanted = [entry for entry in (*READABLE, *REFUSED) if is_wanted(entry, arguments.family)]
    for entry in wanted:
        row = measure(entry)
        rows[key_of_row(row)] = row
        write_table(in_order(rows))
        print(*(row[name] for name in ("family", "library", "model", "grid", "difference", "compiled", "refusal")))
    if not arguments.no_overhead:
        measure_times(arguments.family, arguments.threads)
    listed = with_times(in_order(rows))
    write_table(listed)
    PAGE.write_text(page(listed), encoding="utf-8")


def is_wanted(entry: Readable, families: list[str] | None) -> bool:
    """Whether an entry is of one of these families; None: of any."""
    return families is None or any(word.lower() in entry.family.lower() for word in families)


def key_of_row(row: Row) -> Key:
    """What tells a row from others."""
    kind = row["read"] if row["read"] in ("refused", "class-attention head") else ""
    return row["library"], row["model"], row["options"], kind


def key_of(entry: Readable) -> Key:
    """The key of an entry's row."""
    return (*entry.key[:3], "refused") if entry in REFUSED else entry.key


def in_order(rows: dict[Key, Row]) -> list[Row]:
    """Return the rows in the order of the list, without those that it holds no more."""
    return [rows[key] for key in map(key_of, (*READABLE, *REFUSED)) if key in rows]


def measure(entry: Readable) -> Row:
    """Return the row of an entry, its times left out."""
    row = dict.fromkeys(COLUMNS, "")
    row |= {"family": entry.family, "library": entry.library, "model": entry.name, "options": entry.options_text}
    libraries = ["torch", *(["timm"] if entry.library == "timm" else [entry.library])]
    row["made_with"] = ", ".join([f"{name} {version(name).split('+')[0]}" for name in libraries] + [platform.machine()])
    if entry in REFUSED:
        return row | {"read": "refused", "size": str(entry.size), "refusal": refusal(entry)}
    return row | locate(entry) | compare(entry)


def locate(entry: Readable) -> Row:
    """Find on the meta device, at the published size, what is read and the grid of its patches."""
    size = (entry.size, entry.size)
    outputs = []
    model = on_meta(entry)
    with torch.device("meta"), torch.no_grad(), AttentionReader(model) as reader:
        model.get_submodule(reader.name).register_forward_hook(lambda _, __, output: outputs.append(output))
        model(example(entry, size))
        (h, w), patches = reader.grid or (0, 0), reader.attention.shape[1]
    if h * w != patches:
        raise RuntimeError(f"{entry.name}: {patches} patches in a grid of {h} x {w}")
    output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    pooled = "attention pool" if output.ndim == 2 else "class attention" if output.shape[1] == 1 else "class token"
    read = "class-attention head" if entry.head else pooled
    return {"read": read, "module": reader.name, "size": str(entry.size), "grid": f"{h} x {w}"}


def on_meta(entry: Readable) -> nn.Module:
    """Return the published model on the meta device, its weights left unfilled: filling takes longest even there."""
    with torch.device("meta"), _Unfilled():
        return build(entry, (entry.size, entry.size))


class _Unfilled(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_):
            return args[0]
        return func(*args, **(kwargs or {}))


def compare(entry: Readable) -> Row:
    """Compare what is read of the small version with its explicit softmax, then again compiled."""
    torch.manual_seed(0)
    model, images = sharpen(build(entry, entry.small_size, "small")), example(entry, entry.small_size, 3)
    with AttentionReader(model) as reader:
        model(images)
        attention = reader.take().row
        explicit = explicit_attention(model, reader.name, images)[:, :, 0, -attention.shape[1] :].mean(1)
        torch.compiler.reset()
        try:
            torch.compile(model, fullgraph=True)(images)
            compiled = "yes" if (reader.take().row - explicit).abs().max() < CLOSE else "no"
        except Exception as error:  # whatever the compiler raises is its answer
            print(f"{entry.name} does not compile: {error}", file=sys.stderr)
            compiled = "no"
    return {"difference": f"{(attention - explicit).abs().max():.0e}", "compiled": compiled}


def refusal(entry: Readable) -> str:
    """Return the error that a model gets, when it is to be read or in its first forward.

    Raises:
        RuntimeError: it is read after all.
    """
    size = entry.small_size if entry.packed else (entry.size, entry.size)
    # Packed patches say where they lie, which no tensor on meta can.
    model = build(entry, size, "small") if entry.packed else on_meta(entry)
    try:
        with torch.device("cpu" if entry.packed else "meta"), AttentionReader(model):
            model(example(entry, size))
    except AttentionError as error:
        return str(error)
    raise RuntimeError(f"{entry.name} is listed as refused, but it is read")


def measure_times(families: list[str] | None, threads: int | None) -> None:
    """Run the benchmark, which keeps its other rows."""
    command = [sys.executable, str(ROOT / "benchmarks" / "reading_overhead.py"), "--json", str(TIMES)]
    command += ["--family", *families] if families else []
    subprocess.run(command + (["--threads", str(threads)] if threads else []), check=True)


def with_times(rows: list[Row]) -> list[Row]:
    """Return the rows with the times that the benchmark's file holds."""
    if not TIMES.exists():
        return rows
    times = {tuple(time["key"]): time for time in json.loads(TIMES.read_text())}
    known = [times.get(key_of_row(row)) for row in rows]
    return [
        row if time is None else row | {"overhead": f"{time['median']:.3f}", "timed": time["timed"]}
        for row, time in zip(rows, known, strict=True)
    ]


def write_table(rows: list[Row]) -> None:
    """Write readable.csv."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def page(rows: list[Row]) -> str:
    """Return docs/models.md."""
    read = [row for row in rows if row["read"] != "refused"]
    refused = [row for row in rows if row["read"] == "refused"]
    unread = ", ".join(model_text(row) for row in read if row["compiled"] != "yes")
    errors = [(_family(row), _model(row), row["refusal"]) for row in refused]
    return TEXT.format(
        families=len({row["family"] for row in read}),
        count=len(read),
        tables="\n\n".join(_of_kind(kind, read) for kind in KINDS),
        compiled=f"All but {unread}" if unread else "All",
        refused=markdown(("family", "model", "error"), errors),
        versions="; ".join(dict.fromkeys(row["made_with"] for row in rows)),
        timed=times_text(read),
        close=CLOSE,
    )


def _of_kind(kind: str, rows: list[Row]) -> str:
    """Return the table of the models whose attention is read in one way, under a heading that says which."""
    heads = ("family", "model and module", "grid", "difference", "overhead")
    shown = [
        (
            _family(row), f"{_model(row)}<br>reads `{row['module']}`",
            row["grid"].replace(" ", "\u00a0") + (f" (at {row['size']})" if row["size"] != "224" else ""),
            row["difference"], row["overhead"] + (" †" if "short" in row["timed"] else ""),
        )
        for row in rows if row["read"] == kind
    ]  # fmt: skip
    return f"## {kind[0].upper()}{kind[1:]}\n\n{KINDS[kind]}\n\n{markdown(heads, shown)}"


def _family(row: Row) -> str:
    """Return the family, with its library unless that is timm."""
    return row["family"] + (f" ({row['library']})" if row["library"] != "timm" else "")


def _model(row: Row) -> str:
    """Return the model, its options on a line of their own: beside it they would widen the page."""
    return f"`{row['model']}`" + (f"<br>`{row['options']}`" if row["options"] else "")


def times_text(rows: list[Row]) -> str:
    """Return where the times were measured, and what of them is missing."""
    measured = dict.fromkeys(row["timed"].removesuffix(", short") for row in rows if row["timed"])
    missing = sum(not row["overhead"] for row in rows)
    if not measured:
        return "No times were measured yet."
    return f"Measured on {'; '.join(measured)}." + (f" {missing} rows were not measured yet." if missing else "")


def markdown(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ("---",) * len(titles), *rows))


TEXT = """<!-- Made by `make models` from transmix/models/readable.csv; changes by hand are lost. -->

# Models that are read

{count} models of {families} families, each measured. `transmix models FILTER` shows the rows whose family, library or
model holds a word. Other members of a family run the same code; models that are not listed may work too: try
`transmix.AttentionReader(model)`, which raises an error with a remedy where it is not.

- **model**: as `timm.create_model`, `torchvision.models.get_model` or, in transformers, a configuration takes it; the
  options below it are needed for it to be read, or tell apart what was measured.
- **reads** and **grid**: the module whose attention that is, and the patches (h x w) of images of 224 x 224 pixels.
- **difference**: largest difference of the row that is read from the same row of a softmax that was formed in full.
- **overhead**: time of forward and backward with reading over the time without; empty: not measured yet.

{compiled} run under `torch.compile(model, fullgraph=True)` with the reader attached, which hands over the same row.

{tables}

## Models that are refused

Each raises `AttentionError` with the text shown, and never falls back to labels by area.

{refused}

## How this was made

`make models`, which is `python scripts/models.py`, on a CPU. Versions: {versions}.

- Module, grid and refusals: the published architecture on PyTorch's meta device, so neither weights nor arithmetic;
  images of many sizes, whose patches say where they lie, on the CPU.
- Difference and compilation: a small version of the same code (two blocks, or one a stage; narrow; random weights under
  which attention is far from uniform; no dropout), float32, training mode, three images, not square where the model can
  do without. The softmax comes from a copy of the model that forms it in full, of which the reader knows nothing
  (`scripts/explicit.py`). Compiled by inductor, forward; that row may differ by up to {close:.0e}, for the compiler
  reorders the model's own arithmetic.
- Overhead: `benchmarks/reading_overhead.py`. Steps with and without a reader take turns in one run; the figure is the
  median of the ratios, round by round. † : the published width with fewer blocks, where reading weighs more than in the
  whole model. {timed}
"""


if __name__ == "__main__":
    main()
