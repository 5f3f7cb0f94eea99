"""The text of --help: the options of a command in named groups, read from the dataclass that they fill.

A text in the annotation of a field begins a group, `out: Annotated[Path, "output"]`; the fields after it belong to it
too. A field that is a dataclass is a group by itself, under the field's name unless a text gives another.
"""

import ast
import inspect
import re
import shutil
import textwrap
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro

COLUMN = 26
"""Where explanations begin, in letters from the left."""

TYPES = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH", types.EllipsisType: "..."}


@dataclass
class Group:
    """A title, what it is about, and (option, explanation) of each of its options."""

    title: str
    about: str = ""
    options: list[tuple[str, str]] = field(default_factory=list)


def help_text(verb: str, kinds: dict[type, Any]) -> str:
    """Return the help of a command, no line wider than the terminal.

    Args:
        verb: name of the command.
        kinds: dataclass that the options fill -> an instance with the defaults, or None for the dataclass's own. The
            first one's docstring explains the command. An option that several have is that of the first.
    """
    titled: dict[str, Group] = {}
    for group in (group for kind, default in kinds.items() for group in _groups(kind, default)):
        titled.setdefault(group.title, Group(group.title, group.about)).options.extend(group.options)
    groups = list(titled.values())
    groups[0].options.append(("-h, --help", "Show this help and exit."))
    shown: set[str] = set()
    first = next(iter(kinds))
    needed = [
        option if explanation.endswith("(required)") else f"[{option}]"
        for option, explanation in (pair for group in groups for pair in group.options)
        if explanation.endswith("(required)") or option[0] != "-"
    ]
    lines = [*_wrap(" ".join(["usage: transmix", verb, *needed, "[OPTION ...]"]), "       "), ""]
    for paragraph in inspect.getdoc(first).split("\n\n"):  # type: ignore[union-attr]
        items = re.split(r"^  (?=\w)", paragraph, flags=re.MULTILINE)  # such lines stay lines of their own
        lines += [*_wrap(items[0]), *(line for item in items[1:] for line in _wrap(item, "      ", "  ")), ""]
    for group in groups:
        lines += _wrap(f"{group.title}: {group.about}" if group.about else group.title)
        for option, explanation in group.options:
            if (name := option.split(" ")[0]) not in shown:
                shown.add(name)
                lines += _entry(option, explanation)
        lines.append("")
    return "\n".join(lines[:-1])


def _groups(kind: type, default: Any, title: str = "options") -> list[Group]:
    """Return the groups of a dataclass: those of its own fields, then those of the dataclasses among them."""
    texts, hints = _field_texts(kind), typing.get_type_hints(kind, include_extras=True)
    own, nested = [Group(title)], []
    for one in fields(kind):
        annotation = hints[one.name]
        hint, *marks = typing.get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        started = next((mark for mark in marks if isinstance(mark, str)), None)
        value = _default_of(one) if default is None else getattr(default, one.name)
        if is_dataclass(hint):
            inner = _groups(hint, value, started or one.name)  # type: ignore[arg-type]
            inner[0].about = inner[0].about or inspect.getdoc(hint).split("\n\n")[0]  # type: ignore[union-attr]
            nested += inner
            continue
        if started is not None:
            own.append(Group(started))
        option = _option(one.name, hint, tyro.conf.Positional in marks)
        own[-1].options.append((option, texts[one.name] + _said(value)))
    return [group for group in own + nested if group.options]


def _field_texts(kind: type) -> dict[str, str]:
    """Return the docstring below each field, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(before.target): " ".join(ast.literal_eval(after.value).split())
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def _default_of(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _option(name: str, hint: Any, positional: bool) -> str:
    """Return how an option is written: NAME, --name VALUE, or both signs of a flag."""
    if positional:
        return name.upper() + (" ..." if typing.get_origin(hint) is tuple else "")
    name = name.replace("_", "-")
    return f"--{name}, --no-{name}" if hint is bool else f"--{name} {_values(hint)}"


def _values(hint: Any) -> str:
    """Return what is typed after an option, by its type."""
    origin, parts = typing.get_origin(hint), [part for part in typing.get_args(hint) if part is not type(None)]
    if origin is typing.Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin is dict:
        return "NAME=VALUE ..."
    if origin is None:
        return TYPES[type(hint) if hint is ... else hint]
    return ("|" if origin in (types.UnionType, typing.Union) else " ").join(map(_values, parts))


def _said(value: Any) -> str:
    """Return a default in brackets, as it would be typed."""
    if value in (MISSING, tyro.MISSING):
        return " (required)"
    if isinstance(value, dict):
        texts = {
            name: f"[{','.join(map(str, part))}]" if isinstance(part, tuple) else part for name, part in value.items()
        }
        value = tuple(f"{name}={text}" for name, text in texts.items())
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    words = {None: "None", "": "nothing", True: "on", False: "off"}
    return f" (default: {words[value] if isinstance(value, str | bool | None) and value in words else value})"


def _entry(option: str, explanation: str) -> list[str]:
    """Return an option and its explanation beside it, or below it where it is long."""
    lines = _wrap(explanation, " " * COLUMN, " " * COLUMN)
    if len(option) + 4 > COLUMN:
        return [*_wrap(option, "      ", "  "), *lines]
    return [f"  {option}".ljust(COLUMN) + lines[0].lstrip(), *lines[1:]]


def _wrap(text: str, indent: str = "", first: str = "") -> list[str]:
    """Break a text into lines, so that none of them holds a single word, if that can be."""
    width = shutil.get_terminal_size().columns

    def broken(room: int) -> list[str]:
        return textwrap.wrap(
            " ".join(text.split()), room, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
        )

    tries = (broken(room) for room in range(width, width - 24, -1))
    return next((lines for lines in tries if all(" " in line.strip() for line in lines[1:])), broken(width))
