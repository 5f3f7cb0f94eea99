"""Plugins: entries that installed packages add to our tables, by the entry point group `transmix.plugins`.

A package declares KIND.NAME = OBJECT in its pyproject.toml:

    [project.entry-points."transmix.plugins"]
    "method.roundmix" = "roundmix.mixing:RoundMix"
    "rule.corner" = "roundmix.labels:CornerLabels"
    "metric.margin" = "roundmix.metrics:MARGIN"
    "suite.upside-down" = "roundmix.suites:upside_down"
    "data.shapes" = "roundmix.data:shapes"

An object is imported when its name is used. Recipe files contain names of entries, never a path to code.
"""

import dataclasses
import difflib
import typing
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from transmix.error import RecipeError, one_line
from transmix.warnings import TransMixWarning

GROUP = "transmix.plugins"

KINDS = ("method", "rule", "metric", "suite", "data")
"""What can be added: a line in `METHODS`, `RULES`, `METRICS`, `SUITES` or `SOURCES`."""


RESERVED = ("none", "all", "transmix")
"""Names that mean something else where names are given."""


class UnknownNameError(RecipeError, ValueError):
    """An unknown name, or an unusable entry of a package."""


@cache
def added() -> dict[str, dict[str, list[EntryPoint]]]:
    """Return kind -> name -> entry points of all installed packages; several if packages share a name."""
    found: dict[str, dict[str, list[EntryPoint]]] = {kind: {} for kind in KINDS}
    for entry in entry_points(group=GROUP):
        kind, dot, name = entry.name.partition(".")
        if kind not in KINDS or not (dot and name) or set(name) & set(".+= ") or name in RESERVED:
            known = ", ".join(f"{one}.NAME" for one in KINDS)
            warnings.warn(f"{_owner(entry)} adds {entry.name!r}, which is none of {known}", TransMixWarning, 2)
            continue
        found[kind].setdefault(name, []).append(entry)
    return found


def names(kind: str, ours: Mapping[str, Any]) -> list[str]:
    """Return the names in a table: ours in order, then those of packages."""
    return [*ours, *sorted(added()[kind].keys() - ours.keys())]


def find(kind: str, ours: Mapping[str, Any], name: str) -> Any:
    """Return an entry of a table by name, ours or a package's.

    Raises:
        UnknownNameError: an unknown name (the message gives the nearest), a name that we and a package both have, or an
            entry that cannot be imported.
    """
    entries = added()[kind].get(name, [])
    if not entries:
        if name in ours:
            return ours[name]
        raise UnknownNameError(f"no {kind} is called {name!r}{nearest(name, names(kind, ours))}")
    entry, owner = entries[0], _owner(entries[0])
    if len(entries) > 1:
        owners = " and ".join(map(_owner, entries))
        raise UnknownNameError(f"{owners} both add a {kind} called {name!r}; uninstall one")
    if name in ours:
        raise UnknownNameError(f"{owner} adds a {kind} called {name!r}, which transmix has; it needs another name")
    try:
        return entry.load()
    except Exception as error:  # whatever the package's code raises
        what = f"{kind} {name!r} of {owner} ({entry.value})"
        raise UnknownNameError(f"{what} cannot be imported: {one_line(error, named=True)}") from error


def make(kind: str, ours: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> Any:
    """Create an object from a table of frozen dataclasses, with the given settings.

    Raises:
        UnknownNameError: as `find`.
        TypeError: the entry has no such setting; the message lists its settings.
        ValueError: a setting is out of range.
    """
    entry = find(kind, ours, name)
    known = [field.name for field in dataclasses.fields(entry)] if dataclasses.is_dataclass(entry) else []
    if unknown := [option for option in options if option not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise TypeError(f"{kind} {name!r} has no setting {unknown[0]!r}; {has}")
    hints = typing.get_type_hints(entry) if options else {}
    return entry(**{option: converted(hints[option], value, option) for option, value in options.items()})  # type: ignore[operator]


def converted(kind: Any, value: Any, name: str) -> Any:
    """Convert a setting to the type of its field: YAML reads 1e-1, without a dot, as text.

    Raises:
        ValueError: a value of another type.
    """
    if kind == float | None:
        if value is None:
            return None
        kind = float
    if kind is float and isinstance(value, int | str | float) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    if kind in words and type(value) is not kind:
        raise ValueError(f"{name} must be {words[kind]}, not {value!r}")
    return value


def nearest(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name: the most similar known name, else all names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


def _owner(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist is not None else "a package"
