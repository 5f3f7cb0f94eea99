"""The help of every command: all its options in named groups, as wide as the terminal and no wider."""

import contextlib
import importlib
import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest

from transmix.cli import VERBS, main
from transmix.cli.help import help_text


def shown(verb, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    with contextlib.suppress(SystemExit):
        assert main([verb, "--help"]) == 0
    return capsys.readouterr().out


def groups_of(text):
    """Title -> its lines, of a help text."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    found = {}
    for lines in blocks:
        start = next((at for at, line in enumerate(lines) if re.match(r"  (-|[A-Z]+( |$))", line)), None)
        if start:
            found[" ".join(lines[:start]).partition(":")[0]] = lines[start:]
    return found


def flags_of(kind):
    for one in fields(kind):
        hint = get_type_hints(kind)[one.name]
        if is_dataclass(hint):
            yield from flags_of(hint)
        else:
            yield one.name


def problems(text, width):
    """What is wrong with the form of a help text."""
    wide = [line for line in text.splitlines() if len(line) > width]
    lonely = [
        line
        for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if line.startswith("    ") and " " not in line.strip() and before.strip()
    ]
    alone = [title for title, lines in groups_of(text).items() if sum(line[:3].strip() != "" for line in lines) < 2]
    return wide + lonely + alone


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("verb", VERBS)
def test_every_option_stands_in_a_named_group_and_no_line_is_lost(verb, width, monkeypatch, capsys):
    text = shown(verb, width, monkeypatch, capsys)
    assert not problems(text, width)
    groups = groups_of(text)
    assert "options" not in groups
    module = importlib.import_module(f"transmix.cli.{verb}")
    kinds = ("CompareRuns", "Mixes", "TrainAndCompare") if verb == "compare" else (verb.title(),)
    wanted = {name for kind in kinds for name in flags_of(getattr(module, kind))}
    listed = "\n".join(line for lines in groups.values() for line in lines)
    for name in wanted:
        assert re.search(rf"^  (--{name.replace('_', '-')}|{name.upper()})(,| |$)", listed, flags=re.MULTILINE), name
    assert "  -h, --help" in listed
    assert len(re.findall(r"\((default: .|required\))", " ".join(listed.split()))) >= len(wanted)


@pytest.mark.parametrize(
    ("verb", "group", "flags"),
    [
        ("train", "mixing", ["--mix", "--labels", "--prob"]),
        ("train", "run folder", ["--out", "--recipe", "--resume"]),
        ("train", "optimization", ["--epochs", "--lr"]),
        ("compare", "train first, then compare", ["--mix", "--labels", "--seeds", "--recipe"]),
        ("compare", "compare runs", ["RUNS", "--baseline"]),
        ("doctor", "output", ["--all", "--json"]),
        ("show", "what is drawn", ["--layer", "--box", "--seed"]),
        ("app", "page", ["TARGET", "--port"]),
    ],
)
def test_options_are_found_under_their_title(verb, group, flags, monkeypatch, capsys):
    text = shown(verb, 80, monkeypatch, capsys)
    lines = groups_of(text)[group]
    assert all(any(re.match(rf"  {flag}[, ]", line) for line in lines) for flag in flags)
    assert not [flag for flag in flags if len(re.findall(rf"^  {flag}[, ]", text, flags=re.MULTILINE)) != 1]


@dataclass(frozen=True)
class Odd:
    """A command."""

    one: Annotated[Path, "alone"]
    """Of a group by itself."""
    two: Annotated[int | None, "others"] = None
    """A number that has a unit, in pixels."""
    three: bool = False
    """A flag."""


def test_a_group_of_one_option_and_a_lost_word_are_noticed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_text("odd", {Odd: Odd(Path("x"), two=3)})
    assert "  --two INT               A number that has a unit, in pixels. (default: 3)" in text
    assert "  --three, --no-three     A flag. (default: off)" in text
    assert problems(text.replace("  -h, --help              Show this help and exit.\n", ""), 80) == ["alone"]
    assert problems(text, 40)
    assert problems(f"{text}\n    word", 80) == ["    word"]
