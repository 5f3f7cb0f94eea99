"""Make docs/results.md, and the figures in README.md, of benchmarks/results: nothing in them is typed by hand.

    python benchmarks/compare/results.py            write both
    python benchmarks/compare/results.py --check    say whether they are what this would write

A JSON file is shown by what it holds (see SECTIONS); one that no section knows is listed at the end.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from masks import empty_boxes, label_truth
from shown import cell, figure, link, origin, ratio, read_difference, table, title
from suites import shown as shown_suites
from verdict import findings, first_screen, label_pairs

from transmix.compare.statistics import Mean
from transmix.compare.text import ALWAYS, COLUMNS, interval, show_mean, show_p
from transmix.metrics import log_metrics

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE, README = ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md", ROOT / "README.md"

HEAD = """\
<!-- Made by `python benchmarks/compare/results.py` from benchmarks/results; changes by hand are lost. -->

# Results
"""

BEGIN = "<!-- Made by `python benchmarks/compare/results.py`; changes by hand are lost. -->\n"
END = "<!-- The end of what is made. -->\n"
"""Between these lines README.md shows what the figures say."""

NO_COMPARISON = """
## Comparisons

No comparison under equal recipes has been recorded yet, so nothing here says that TransMix beats its baselines.
`python benchmarks/compare/run.py digits` makes one.
"""


def page(folder: Path) -> str:
    """Return the page of a folder of figures."""
    files = figures_of(folder)
    shown = {name: next((draw for knows, draw in SECTIONS if knows(found)), None) for name, found in files.items()}
    order = [draw for _, draw in SECTIONS]
    known = sorted((name for name in files if shown[name]), key=lambda name: order.index(shown[name]))  # type: ignore[arg-type]
    sections = [shown[name](name, files[name]) for name in known]  # type: ignore[misc]
    headings = [one.partition("\n")[0].removeprefix("## ") for one in sections]
    parts = [HEAD, first_screen({name: files[name] for name in known}, headings)]
    if not any(shown[name] is comparison for name in known):
        parts.append(NO_COMPARISON)
    parts += ["\n" + one for one in sections]
    rest = [
        path.name for path in sorted(folder.iterdir()) if path.name not in known and path.suffix in (".json", ".txt")
    ]
    if rest:
        parts.append("\n## More files\n\n" + "".join(f"- {link(name)}\n" for name in rest))
    return "".join(parts)


def put_into(text: str, folder: Path) -> str:
    """Return README.md's text with what a folder's figures say."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + findings(figures_of(folder)) + "\n" + END + after


def figures_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of a folder's files by name, with the command that made each."""
    told, files = commands(folder), {}
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        found = found if isinstance(found, dict) else {"models": found}
        files[path.name] = {"command": told.get(path.name), **found}
    return files


def commands(folder: Path) -> dict[str, str]:
    """Return file -> command of the table in the folder's README, for files that do not hold theirs."""
    readme = folder / "README.md"
    text = readme.read_text() if readme.exists() else ""
    return dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", text, flags=re.MULTILINE))


def comparison(name: str, found: dict[str, Any]) -> str:
    """Show groups of runs beside each other, their differences, and every run."""
    score, groups = found["compared"], found["groups"]
    runs = [(group, run) for group in groups for run in group["runs"]]
    metrics = log_metrics()
    metric = metrics[score]
    settings = groups[0]["settings"]
    known = [one for one in (*COLUMNS[score], *ALWAYS) if any(one in group["means"] for group in groups)]
    epochs = settings["epochs"] + settings["cooldown_epochs"]
    budget = f"{settings['model']} on {Path(settings['data']).name}, {epochs} epochs"
    means = [
        [
            cell(group["name"]),
            len(group["seeds"]),
            *(show_mean(Mean(**group["means"][one]) if one in group["means"] else None, metrics[one]) for one in known),
        ]
        for group in groups
    ]
    differences, verdicts = [], []
    for one in found["differences"]:
        value = read_difference(one["scores"][score])
        pair = f"{cell(one['group'])} − {cell(one['baseline'])}"
        numbers = [metric.write_difference(value.mean), interval(value, metric), len(value.each)]
        differences.append([pair, *numbers, show_p(value.p), show_p(one["p_holm"]), cell(one["common"])])
        verdicts.append(f"- {pair}: {one['verdict']}\n")
    each = [
        [cell(group["name"]), run["seed"], *(metrics[one].write(run["scores"].get(one), unit=False) for one in known)]
        if run["finished"]
        else [cell(group["name"]), run["seed"], f"not finished: {run['epochs']} epochs", *[""] * (len(known) - 1)]
        for group, run in runs
    ]
    heads = [metrics[one].heading for one in known]
    unit = metric.difference_unit
    environments = [run["environment"] for _, run in runs]
    parts = [
        f"## Comparison: {name.removeprefix('compare_').removesuffix('.json').replace('_', ' ')}\n\n",
        f"{budget}. Scores after the last epoch, mean ± standard deviation over seeds.\n\n",
        *(f"> {cell(one)}\n\n" for one in (*found["cautions"], *found["remarks"])),
        table(["", "seeds", *heads], means),
        f"\nDifference of {metric.label} in {unit}, seed by seed; 95 % interval by Student's t.\n\n",
        table(["", "mean", "interval", "n", "p", "p by Holm", "with the same seed they share"], differences),
        "\n",
        *verdicts,
        shown_suites(groups, "ema" if score.startswith("ema_") else "model", label_pairs(found)),
        '\n<details markdown="1"><summary>Every run</summary>\n\n',
        table(["", "seed", *heads], each),
        "\n</details>\n\n",
        origin(name, found["command"], environments, sorted({run["seed"] for _, run in runs})),
    ]
    return "".join(parts)


def timed(name: str, found: dict[str, Any]) -> str:
    """Show a benchmark's rows: time, and its ratio to the peer's of the same run."""
    rows = found["rows"]
    standard = {"case", "variant", "peer", "median_ms", "quartiles_ms", "ratio", "ratio_quartiles"}
    more = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in standard]
    lines = [
        [
            cell(row.get("case", "")),
            cell(row.get("variant", "")),
            figure(row.get("median_ms"), 1 if (row.get("median_ms") or 0) >= 10 else 3),
            ratio(row.get("ratio"), row.get("ratio_quartiles")),
            *(figure(row.get(key), 3) for key in more),
        ]
        for row in rows
    ]
    peers = sorted({str(row["peer"]) for row in rows if row.get("peer")})
    heads = ["case", "variant", "ms", f"ratio to {', '.join(peers) or 'the peer'} (quartiles)"]
    about = {**found, "packages": found.get("versions", {})}
    if peer := found.get("timm_checkout"):
        about["packages"] = {**about["packages"], "timm's train.py": f"{peer['version']} {peer['commit']}"}
    return (
        f"## {title(name.removesuffix('.json'))}\n\n"
        + table([*heads, *(key.replace("_", " ") for key in more)], lines)
        + "\n"
        + origin(name, found["command"], [about], [])
    )


def reading(name: str, about: dict[str, Any]) -> str:
    """Show what reading attention costs, over all models; each one's figure stands in docs/models.md."""
    found = about["models"]
    medians = sorted(one["median"] for one in found)
    timings = sorted({one["timed"].removesuffix(", short") for one in found})
    libraries = ("torch", "timm", "torchvision", "transformers")
    versions = {key: ", ".join(sorted({one[key] for one in found if key in one})) for key in libraries}
    machine = {"device": "; ".join(timings), "packages": {key: value for key, value in versions.items() if value}}
    return (
        f"## {title(name.removesuffix('.json'))}\n\n"
        f"Time of forward and backward with reading over the time without, {len(found)} models "
        f"([each one's figure](models.md)).\n\n"
        + table(
            ["lowest", "median", "highest"],
            [[f"{value:.3f}" for value in (medians[0], statistics.median(medians), medians[-1])]],
        )
        + "\n"
        + origin(name, about.get("command"), [machine], [])
    )


SECTIONS: Sequence[tuple[Callable[[dict], bool], Callable[[str, dict[str, Any]], str]]] = (
    (lambda found: found.get("kind") == "comparison", comparison),
    (lambda found: "truth" in found, label_truth),
    (lambda found: found.get("benchmark") == "empty_boxes", empty_boxes),
    (lambda found: "benchmark" in found and bool(found.get("rows")), timed),
    (lambda found: isinstance(found.get("models"), list) and all("timed" in one for one in found["models"]), reading),
)
"""How a file is known, and what shows it; sections stand in this order."""


def main(words: Sequence[str]) -> int:
    """Write the page, or check it."""
    made = {PAGE: page(RESULTS), README: put_into(README.read_text(), RESULTS)}
    if "--check" not in words:
        for path, text in made.items():
            path.write_text(text)
            print(f"written to {path}")
        return 0
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    for path in made:
        print(f"{path} is {'not what the files say: make results' if path in stale else 'up to date'}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
