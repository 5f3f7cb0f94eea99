"""transmix methods: what images can be mixed by and labels weighed by, by the names that recipes use."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from transmix import plugins
from transmix.cli.options import parse
from transmix.labels.rules import RULES
from transmix.methods import NAMED
from transmix.mixing.methods import METHODS
from transmix.mixing.mixer import looks_at
from transmix.recipes.mixing import mix_and_labels


@dataclass(frozen=True)
class Methods:
    """List the methods for --mix and the rules for --labels, with their settings.

    A paper's name stands for both; any method goes with any rule: --mix fmix --labels attention. Settings are given as
    --mix-options NAME=VALUE and --labels-options NAME=VALUE.
    """


def main(arguments: list[str]) -> None:
    """Print the three tables."""
    parse(Methods, "methods", arguments)
    papers = {"transmix": "TransMix"} | {name: kind.__name__ for name, kind in NAMED.items()}
    rows = [(name, " + ".join(map(str, mix_and_labels(name, None))), papers[name]) for name in papers]
    _show(
        "papers: the name for --mix",
        ("name", "mix + labels", "transmix."),
        [(name, both.replace("None", "area"), kind) for name, both, kind in rows],
    )
    _show("methods for --mix", ("name", "looks at", "settings", "what it does"), _entries("method", METHODS))
    _show("rules for --labels", ("name", "looks at", "settings", "what it does"), _entries("rule", RULES))


def _entries(kind: str, table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    entries = [(name, plugins.find(kind, table, name)) for name in plugins.names(kind, table)]
    return [(name, _looks(entry), _settings(entry), _sentence(entry)) for name, entry in entries]


def _looks(entry: Any) -> str:
    kinds = [kind for kind in (looks_at(entry), *getattr(entry, "needs", ())) if kind]
    return ", ".join(kinds) or "-"


def _settings(entry: Any) -> str:
    values = {field.name: field.default for field in fields(entry) if field.default is not MISSING}
    return " ".join(f"{name}={value}" for name, value in values.items()) or "-"


def _sentence(entry: Any) -> str:
    return (entry.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def _show(title: str, names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    lines = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"{title}:")
    for cells in lines:
        print("  " + "  ".join(map(str.ljust, cells, widths)).rstrip())
    print()
