"""A comparison for people and programs: one page, a Markdown table, JSON."""

import json
import re
from pathlib import Path
from typing import Any

from transmix.compare import text
from transmix.compare.comparison import METRICS, Comparison, scores_of
from transmix.compare.figures import curve_svgs, difference_svg, legend
from transmix.compare.groups import packages
from transmix.compare.record import as_json, best_epoch
from transmix.printable import printable
from transmix.report.page import render, write_page

TEMPLATE = Path(__file__).with_name("compare.html")


def write_comparison(comparison: Comparison, page: Path, **about: Any) -> list[Path]:
    """Write page (.html), table (.md) and numbers (.json) beside each other.

    Args:
        comparison: what is written.
        page: where; the others have its name with their ending.
        about: more for the JSON: command, failed runs, ...

    Returns:
        The files.

    Raises:
        RunError: one cannot be written.
    """
    numbers = json.dumps({**about, **as_json(comparison)}, indent=1) + "\n"
    contents = {".html": html(comparison), ".md": markdown(comparison), ".json": numbers}
    paths = [page.with_suffix(ending) for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_page(path, content)
    return paths


def html(comparison: Comparison) -> str:
    """Return the page."""
    groups = comparison.groups
    names = text.columns(comparison)
    scored = METRICS[comparison.score]
    first = groups[0].runs[0]
    others = [name for name in names if name not in (comparison.score, "label_shift")]
    return render(
        TEMPLATE,
        comparison=comparison,
        text=text,
        columns={name: METRICS[name] for name in names},
        others={name: METRICS[name] for name in others},
        scored=scored,
        data=Path(first.settings["data"] or "").name,
        first=first,
        runs=[(index, group, run) for index, group in enumerate(groups) for run in group.runs],
        scores_of=scores_of,
        packages=packages,
        best=lambda run: best_epoch(run, comparison.score),
        differences=difference_svg(comparison),
        legend=legend(comparison),
        curves=curve_svgs(comparison),
    )


def markdown(comparison: Comparison) -> str:
    """Return cautions, tables and how to read them as Markdown."""
    cautions = "".join(f"> **Note:** {_escape(one)}\n\n" for one in comparison.cautions)
    notes = "".join(f"- {_escape(note)}\n" for note in text.reading_notes(comparison))
    return f"{cautions}{tables(comparison)}\n{notes}"


def tables(comparison: Comparison) -> str:
    """Return scores and differences as Markdown that lines up in a terminal too."""
    names = text.columns(comparison)
    score = METRICS[comparison.score]
    lines = ["Mean ± standard deviation over seeds, after the last epoch.", ""]
    rows = [
        [
            _escape(group.name),
            str(len(group.finished)),
            *(text.show_mean(comparison.means[group.name].get(name), METRICS[name]) for name in names),
        ]
        for group in comparison.groups
    ]
    lines += _table(["", "seeds", *(text.heading(METRICS[name]) for name in names)], rows)
    if comparison.compared:
        unit = text.unit_of_difference(score)
        headings = [f"difference of {score.label} ({unit})", "mean", "95 % interval", "n", "p", "p by Holm"]
        rows = [
            [
                f"{_escape(one.group)} − {_escape(one.baseline)}",
                text.signed(found.mean, score),
                text.interval(found, score),
                str(len(found.seeds)),
                text.show_p(found.p),
                text.show_p(one.p_holm),
            ]
            for one in comparison.compared
            for found in [one.scores[comparison.score]]
        ]
        lines += ["", *_table(headings, rows), ""]
        for one in comparison.compared:
            pair = f"{_escape(one.group)} − {_escape(one.baseline)}"
            lines.append(f"- {pair}: {one.verdict} With the same seed they share {one.common}.")
    return "\n".join(lines) + "\n"


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table whose columns line up: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    left = [i == 0 for i in range(len(headings))]

    def line(cells: list[str]) -> str:
        padded = [cell.ljust(w) if lies else cell.rjust(w) for cell, w, lies in zip(cells, widths, left, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"{'-' * (w + 1)}{'-' if lies else ':'}" for w, lies in zip(widths, left, strict=True))
    return [line(headings), f"|{rule}|", *map(line, rows)]


def _escape(words: str) -> str:
    """Return a text that Markdown and a terminal show as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(words))
