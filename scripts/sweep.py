"""Bend every listed model, and every integration, until a label could be wrong; write the table in docs/reliability.md.

    python scripts/sweep.py                      all of it, about ten minutes on one core (`make sweep`)
    python scripts/sweep.py --model swin cait    only models whose names hold one of these words; writes nothing

A cell is right (the label is the one by hand), refused (an error that says what to do, and where that can be done
mechanically, doing it makes the label right), does not run (nor does it without TransMix), or wrong.
"""

import argparse
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from bends import BENDS, CLOSE, CLOSE_BF16, Bend, Case, WrongError
from neighbours import BETWEEN, NEIGHBOURS, Trained, judge
from readable import READABLE, Readable

from transmix import AttentionError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- Made by `make sweep`; changes by hand are lost. -->", "<!-- End of the sweep. -->"
ANSWERS = ("right", "refused", "does not run", "wrong")
ATTEMPTS = 3
"""A refusal's remedy may lead to one more refusal: first the grid, then the prefix tokens."""


@dataclass(frozen=True)
class Cell:
    """What came of one use of one model: one of `ANSWERS`, and the text of the refusal or what is wrong."""

    answer: str
    text: str = ""


def main() -> int:
    """Sweep, print what is wrong, and write the table; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", help="only models whose names hold one of these")
    words = parser.parse_args().model
    warnings.simplefilter("ignore")
    entries = [entry for entry in READABLE if not words or any(word in entry.name for word in words)]
    rows: dict[str, list[Cell]] = {}
    for bend in BENDS:
        cells = [cell(bend, entry) for entry in entries]
        rows[bend.words] = list(map(worse, cells, rows.get(bend.words, cells)))
        print(bend.words, dict(Counter(one.answer for one in cells)), flush=True)
        for entry, one in zip(entries, cells, strict=True):
            if one.answer == "wrong":
                print(f"  WRONG: {entry.library} {entry.name}: {one.text}", flush=True)
    beside = {name: [neighbour(train, between) for between in BETWEEN] for name, train in NEIGHBOURS.items()}
    for name, cells in beside.items():
        print(name, [(one.answer, one.text if one.answer == "wrong" else "") for one in cells], flush=True)
    if not words:
        write(page(rows, beside))
    return any(one.answer == "wrong" for cells in (*rows.values(), *beside.values()) for one in cells)


def cell(bend: Bend, entry: Readable) -> Cell:
    """Use a model in one way, with TransMix and if need be without."""
    try:
        bend.use(partial(Case, entry, True), "")
        return Cell("right")
    except Exception as error:  # whatever a model's code raises
        raised = error
    try:
        bend.use(partial(Case, entry, False), "")
    except Exception as error:
        return Cell("does not run", str(error))
    if not isinstance(raised, AttentionError | ValueError):
        return Cell(
            "wrong", str(raised) if isinstance(raised, WrongError) else "".join(traceback.format_exception(raised))
        )
    text = str(raised)
    if not any(words in text for words in bend.says.split("|")) or not bend.says:
        return Cell("wrong", f"refused, but the text does not say what to do: {text}")
    return follow(bend, entry, text) if bend.remedied else Cell("refused", text)


def worse(one: Cell, other: Cell) -> Cell:
    """Return the worse of two answers."""
    return max(one, other, key=lambda cell: ANSWERS.index(cell.answer))


def follow(bend: Bend, entry: Readable, text: str) -> Cell:
    """Do what a refusal says, after which the label must be right."""
    told, raised = text, None
    for _ in range(ATTEMPTS):
        try:
            bend.use(partial(Case, entry, True), told)
            return Cell("refused", text)
        except (AttentionError, ValueError) as error:
            told, raised = f"{told}\n{error}", error
        except Exception as error:
            raised = error
            break
    return Cell("wrong", f"refused: {told}\nand then, as it says: {raised!r}")


def neighbour(train: Trained, between: str) -> Cell:
    """Train one batch by an integration."""
    try:
        judge(train, between)
        return Cell("right")
    except AttentionError as error:
        return Cell("refused" if "tm.reader.eval = True" in str(error) else "wrong", str(error))
    except Exception as error:
        return Cell("wrong", "".join(traceback.format_exception(error)))


def page(rows: dict[str, list[Cell]], beside: dict[str, list[Cell]]) -> str:
    """Return the section between the two marks."""
    says, counted = {bend.words: bend.says for bend in BENDS}, []
    for words, cells in rows.items():
        count = Counter(one.answer for one in cells)
        told = ", ".join(f"`{part}`" for part in says[words].split("|")) if count["refused"] else ""
        counted.append([words, *(str(count[answer] or "") for answer in ANSWERS), told])
    libraries = ", ".join(f"{name} {version(name).split('+')[0]}" for name in ("torch", "timm", "transformers"))
    return TEXT.format(
        models=len(next(iter(rows.values()))),
        libraries=libraries,
        close=CLOSE,
        close_bf16=CLOSE_BF16,
        bends=markdown(["what is done", *ANSWERS, "a refusal says"], counted),
        neighbours=markdown(
            ["between forward and loss", *BETWEEN],
            [[name, *(one.answer for one in cells)] for name, cells in beside.items()],
        ),
    )


def markdown(titles: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))


def write(section: str) -> None:
    """Put the section between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{section}\n{END}{after}", encoding="utf-8")


TEXT = """A label by attention belongs to its batch, or an error says so. {models} models of [Models](models.md), small
and not square where they can do without, with {libraries}. Each number counts models. *right*: the label is
within {close:.0e} (bfloat16: {close_bf16:.0e}) of a loop over the patches of a softmax that the model formed in full.
*refused*: an error that says what to do, and where that can be done mechanically, doing it makes the label right.
*does not run*: nor does it without TransMix, or the model has no such thing. Of a siamese model, and of one that does
something to its images inside, TransMix is given the inner model or, with `module=`, the whole; patches are dropped,
and prompts added, a few or as many as make another grid; of both the worse answer counts.

{bends}

One batch by each integration, its loss against one by hand:

{neighbours}

What cannot be detected: once a shape has passed its first comparison of pixels, a single forward on a copy of the mixed
images of the same size that was permuted or flipped, or a batch that moved within a larger one (`rows=`); and images
that are overwritten in place between mixing and forward.
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
