"""transmix methods: list the methods for --mix and the rules for --labels, by the names that recipes use."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import tyro

from transmix import plugins
from transmix.cli.options import parse
from transmix.error import RecipeError
from transmix.labels.rules import RULES
from transmix.methods import NAMED
from transmix.mixing.methods import METHODS
from transmix.mixing.mixer import looks_at
from transmix.recipes.mixing import mix_and_labels


@dataclass(frozen=True)
class Methods:
    """List the methods for --mix and the rules for --labels, with their settings and defaults.

    The name of a paper stands for a method and a rule together. Any method can be combined with any rule:
    --mix fmix --labels attention. Settings: --mix-options NAME=VALUE and --labels-options NAME=VALUE.

      needs: what is computed for it: attention, logits or a rollout of the mixed images; maps of the clean images
        (clean, class, patches, saliency); or foreground masks
    """

    filter: Annotated[str, tyro.conf.Positional, "methods"] = ""
    """Show only rows that contain this word: mix, attention, snapmix, ..."""


def main(arguments: list[str]) -> None:
    """Print the tables, or the rows that a filter leaves."""
    word = parse(Methods, "methods", arguments).filter.lower()
    papers = {"transmix": "TransMix"} | {name: kind.__name__ for name, kind in NAMED.items()}
    tables = {
        "papers, for --mix": (
            ("name", "method", "rule", "in Python"),
            [(name, *_method_and_rule(name), f"transmix.{kind}") for name, kind in papers.items()],
        ),
        "methods, for --mix": (("name", "needs", "settings", "what it does"), _entries("method", METHODS)),
        "rules, for --labels": (("name", "needs", "settings", "what it does"), _entries("rule", RULES)),
    }
    found = {
        title: (names, [row for row in rows if word in " ".join(row).lower()])
        for title, (names, rows) in tables.items()
    }
    if not any(rows for _, rows in found.values()):
        raise RecipeError(f"no method, rule or paper contains {word!r}; transmix methods lists them all")
    print("\n\n".join(_table(title, names, rows) for title, (names, rows) in found.items() if rows))


def _method_and_rule(name: str) -> tuple[str, str]:
    method, rule = mix_and_labels(name, None)
    return method, rule or "area"


def _entries(kind: str, table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    entries = [(name, plugins.find(kind, table, name)) for name in plugins.names(kind, table)]
    return [(name, _needs(entry), _settings(entry), _sentence(entry)) for name, entry in entries]


def _needs(entry: Any) -> str:
    return ", ".join(filter(None, (looks_at(entry), *getattr(entry, "needs", ())))) or "-"


def _settings(entry: Any) -> str:
    values = {field.name: field.default for field in fields(entry) if field.default is not MISSING}
    return " ".join(f"{name}={value}" for name, value in values.items()) or "-"


def _sentence(entry: Any) -> str:
    return " ".join((entry.__doc__ or "").strip().split("\n\n")[0].split())


def _table(title: str, names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, cells, widths)).rstrip() for cells in (names, *rows)]
    return "\n".join([f"{title}:", *lines])
