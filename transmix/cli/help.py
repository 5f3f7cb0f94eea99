"""The text of --help: the options of a command in named groups, read from its dataclass.

A text in the annotation of a field begins a group, `out: Annotated[Path, "output"]`; the fields after it belong to it
too. A field that is a dataclass is a group by itself, under the field's name unless a text gives another.
"""

import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import tyro

from transmix.recipes.settings import meanings

COLUMN = 26
"""Where explanations begin, in letters from the left."""

TYPES = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH", types.EllipsisType: "..."}


def help_text(verb: str, kinds: dict[type, Any]) -> str:
    """Return the help of a command, no line wider than the terminal.

    Args:
        verb: name of the command.
        kinds: dataclass of the options -> an instance with the defaults, or None for the dataclass's own. The first
            docstring describes the command. If several dataclasses have an option, the first one is used.
    """
    groups: dict[str, dict[str, str]] = {}  # title -> option -> explanation
    for kind, default in kinds.items():
        for title, option, explanation in _options(kind, default):
            if not any(option.split(" ")[0] == other.split(" ")[0] for group in groups.values() for other in group):
                groups.setdefault(title, {})[option] = explanation
    needed = {option: text.endswith("(required)") for group in groups.values() for option, text in group.items()}
    next(iter(groups.values()))["-h, --help"] = "Show this help and exit."
    words = [option if must else f"[{option}]" for option, must in needed.items() if must or option[0] != "-"]
    lines = [*_wrap(" ".join(["usage: transmix", verb, *words, "[OPTION ...]"]), "       "), ""]
    for paragraph in inspect.getdoc(next(iter(kinds))).split("\n\n"):  # type: ignore[union-attr]
        items = re.split(r"^  (?=\w)", paragraph, flags=re.MULTILINE)  # such lines stay lines of their own
        lines += [*_wrap(items[0]), *(line for item in items[1:] for line in _wrap(item, "      ", "  ")), ""]
    for title, group in groups.items():
        lines += _wrap(title)
        for option, explanation in group.items():
            beside = _wrap(explanation, " " * COLUMN, " " * COLUMN)
            if len(option) + 4 > COLUMN:  # too long: above its explanation
                lines += [*_wrap(option, "      ", "  "), *beside]
            else:
                lines += [f"  {option}".ljust(COLUMN) + beside[0].lstrip(), *beside[1:]]
        lines.append("")
    return "\n".join(lines[:-1])


def _options(kind: type, default: Any, title: str = "options") -> Iterator[tuple[str, str, str]]:
    """Yield title, option and explanation: of a dataclass's own fields, then of the dataclasses among them."""
    if default is None:  # without a default and a factory, both are MISSING
        default = kind(**{one.name: tyro.MISSING for one in fields(kind) if one.default is one.default_factory})
    texts, hints, nested = meanings(kind), typing.get_type_hints(kind, include_extras=True), []
    for name, hint in typing.get_type_hints(kind).items():
        marks, value = getattr(hints[name], "__metadata__", ()), getattr(default, name)
        begun = next((mark for mark in marks if isinstance(mark, str)), None)
        if is_dataclass(hint):
            about = inspect.getdoc(hint).split("\n\n")[0]  # type: ignore[union-attr]
            nested.append((hint, value, f"{begun or name}: {about}"))
        else:
            title = begun or title
            yield title, _option(name, hint, tyro.conf.Positional in marks), texts[name] + _said(value)
    for group in nested:
        yield from _options(*group)


def _option(name: str, hint: Any, positional: bool) -> str:
    """Return the syntax of an option: NAME, --name VALUE, or --flag and --no-flag."""
    if positional:
        return name.upper() + (" ..." if typing.get_origin(hint) is tuple else "")
    name = name.replace("_", "-")
    return f"--{name}, --no-{name}" if hint is bool else f"--{name} {_values(hint)}"


def _values(hint: Any) -> str:
    """Return the placeholder of an option's value, from its type."""
    origin, parts = typing.get_origin(hint), [part for part in typing.get_args(hint) if part is not type(None)]
    if origin is typing.Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin is dict:
        return "NAME=VALUE ..."
    if origin is None:
        return TYPES[type(hint) if hint is ... else hint]
    return ("|" if origin in (types.UnionType, typing.Union) else " ").join(map(_values, parts))


def _said(value: Any) -> str:
    """Return a default in brackets, in command line syntax."""
    if value is tyro.MISSING:
        return " (required)"
    if isinstance(value, dict):
        value = name_value_words(value)
    if isinstance(value, tuple | list):
        value = " ".join(map(str, value))
    words = {None: "None", "": "nothing", True: "on", False: "off"}
    return f" (default: {words[value] if isinstance(value, str | bool | None) and value in words else value})"


def name_value_words(options: dict[str, Any]) -> list[str]:
    """Return settings in command line syntax: NAME=VALUE, NAME=[VALUE,VALUE]."""
    lists = {name: f"[{','.join(map(str, value))}]" for name, value in options.items() if isinstance(value, tuple)}
    return [f"{name}={value}" for name, value in (options | lists).items()]


def _wrap(text: str, indent: str = "", first: str = "") -> list[str]:
    """Break a text into lines; avoid lines of a single word."""
    width, words = shutil.get_terminal_size().columns, " ".join(text.split())
    how: dict[str, Any] = {"initial_indent": first, "subsequent_indent": indent, "break_on_hyphens": False}
    tries = (textwrap.wrap(words, room, **how) for room in range(width, width - 24, -1))
    most = textwrap.wrap(words, width, **how)
    return next((lines for lines in tries if all(" " in line.strip() for line in lines[1:])), most)
