"""Write a comparison as an HTML page, a Markdown table and JSON."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transmix.compare import text
from transmix.compare.comparison import Comparison, scores_of
from transmix.compare.figures import curve_svgs, difference_svg, legend
from transmix.compare.groups import data_name, packages
from transmix.compare.statistics import LEVEL
from transmix.printable import printable
from transmix.report.page import render, write_page
from transmix.runs.read import RunRecord, number


def write_comparison(comparison: Comparison, page: Path, **about: Any) -> list[Path]:
    """Write the page (.html), table (.md) and numbers (.json) into one folder.

    Args:
        comparison: the comparison.
        page: path of the page; the other files have the same name with .md and .json.
        about: more entries for the JSON: command, failed runs, ...

    Returns:
        The files.

    Raises:
        RunError: a file cannot be written.
    """
    numbers = json.dumps({**about, **as_json(comparison)}, indent=1) + "\n"
    contents = {".html": html(comparison), ".md": markdown(comparison), ".json": numbers}
    paths = [page.with_suffix(ending) for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_page(path, content)
    return paths


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return all numbers for JSON, in the log's units: groups with their runs, and differences."""
    return {
        "compared": comparison.score,
        "weights": text.weights_of(comparison),
        "baseline": comparison.baseline,
        "level": LEVEL,
        "verdict": text.verdict(comparison),
        "cautions": list(comparison.cautions),
        "groups": [
            {
                "name": group.name,
                "mix": group.runs[0].settings["mix"],
                "seeds": [run.seed for run in group.finished],
                "means": {name: asdict(mean) for name, mean in comparison.means[group.name].items()},
                "runs": [
                    {
                        "folder": str(run.folder),
                        "seed": run.seed,
                        "finished": run.finished,
                        "epochs": len(run.epochs),
                        "scores": scores_of(run),
                        "best": best_epoch(run, comparison.score),
                        "environment": run.environment,
                    }
                    for run in group.runs
                ],
            }
            for group in comparison.groups
        ],
        "differences": [
            {
                "group": one.group,
                "baseline": one.baseline,
                "common": str(one.shared),
                "same_draws": one.shared.same,
                "same_boxes": one.shared.same_boxes,
                "verdict": one.verdict,
                "p_holm": one.p_holm,
                "scores": {name: {"n": len(value.seeds), **asdict(value)} for name, value in one.scores.items()},
            }
            for one in comparison.compared
        ],
    }


def best_epoch(run: RunRecord, score: str) -> dict[str, Any] | None:
    """Return the best score of any epoch and its epoch; optimistic, because it is selected on the same images."""
    known = [row for row in run.epochs if number(row.get(score)) is not None and "epoch" in row]
    best = max(known, key=lambda row: (row[score], -row["epoch"]), default=None)
    return best and {"score": float(best[score]), "epoch": best["epoch"]}


def html(comparison: Comparison) -> str:
    """Return the page."""
    columns = text.columns(comparison)
    return render(
        Path(__file__).with_name("compare.html"),
        comparison=comparison,
        text=text,
        columns=columns,
        others={name: one for name, one in columns.items() if name not in (comparison.score, "label_shift")},
        runs=[(index, group, run) for index, group in enumerate(comparison.groups) for run in group.runs],
        scores_of=scores_of,
        packages=packages,
        data_name=data_name,
        best_epoch=best_epoch,
        differences=difference_svg(comparison),
        legend=legend(comparison),
        curves=curve_svgs(comparison),
    )


def markdown(comparison: Comparison) -> str:
    """Return the verdict, warnings, tables and reading notes as Markdown."""
    cautions = "".join(f"> **Note:** {_escape(one)}\n\n" for one in comparison.cautions)
    notes = "".join(f"- {_escape(note)}\n" for note in text.reading_notes(comparison))
    return f"{_escape(text.verdict(comparison))}\n\n{cautions}{tables(comparison)}\n{notes}"


def tables(comparison: Comparison) -> str:
    """Return scores and differences as Markdown with aligned columns."""
    columns, score = text.columns(comparison), comparison.metrics[comparison.score]
    rows = [["", "seeds", *(metric.heading for metric in columns.values())]]
    for group in comparison.groups:
        means = comparison.means[group.name]
        shown = [text.show_mean(means.get(name), metric) for name, metric in columns.items()]
        rows.append([_escape(group.name), str(len(group.finished)), *shown])
    lines = ["Mean ± standard deviation over seeds, after the last epoch.", "", *_table(rows)]
    if comparison.compared:
        unit, verdicts = score.difference_unit, []
        rows = [[f"difference of {score.label} ({unit})", "mean", "95 % interval", "n", "p", "p by Holm"]]
        for one in comparison.compared:
            found, pair = one.scores[comparison.score], f"{_escape(one.group)} − {_escape(one.baseline)}"
            mean, p_values = score.write_difference(found.mean), map(text.show_p, (found.p, one.p_holm))
            rows.append([pair, mean, text.interval(found, score), str(len(found.seeds)), *p_values])
            verdicts.append(f"- {pair}: {one.verdict} With the same seed they share {one.shared}.")
        lines += ["", *_table(rows), "", *verdicts]
    return "\n".join(lines) + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    """Return a table with aligned columns, headings first: first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [lines[0], f"|{rule}|", *lines[1:]]


def _escape(words: str) -> str:
    """Escape a text for Markdown and a terminal."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(words))
