"""Write what the experiment on small objects found into docs/experiments.md, with its figures.

python benchmarks/small_objects/page.py             below the line `<!-- results: small objects -->`
python benchmarks/small_objects/page.py --check     say whether the page is what this would write
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from arms import SETTINGS, STAGES
from outcomes import LEFT_CHANCE, OUTCOMES, PRIMARY, RESULTS, compared, of_arms, share, signed_rank, stops, wins

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "compare"))
from shown import origin, table

from transmix.compare.statistics import mean_of
from transmix.compare.text import interval, show_p
from transmix.metrics import Metric

ROOT = Path(__file__).resolve().parents[2]
PAGE, FIGURE = ROOT / "docs" / "experiments.md", ROOT / "docs" / "pictures" / "small_objects.svg"
MARK = "<!-- results: small objects -->\n"

METRICS = {
    "top1": Metric("EMA top-1", factor=100, decimals=2, unit="%"),
    "nll": Metric("NLL after temperature scaling", decimals=4, unit="nats"),
}


def text_of(found: Mapping[str, Any]) -> str:
    """Return the results of all stages."""
    runs = found["runs"]
    parts = [pilot(runs), *(stage(runs, name) for name in ("main", "more")), chance(runs)]
    seeds = sorted({run["seed"] for run in runs})
    where = origin(RESULTS.name, found["command"], [found | {"commit": ", ".join(found["commit"])}], seeds)
    return "\n".join([*(part for part in parts if part), where])


def pilot(runs: Sequence[Mapping[str, Any]]) -> str:
    """Show the pilot runs and the check of the setting that was taken."""
    trials = [run for run in runs if run["seed"] >= 100 and run["finished"]]
    lines = [
        [f"`{name}`", f"{SETTINGS[name] or 'as the recipe'}".strip("{}").replace("'", ""), len(of), " ".join(of)]
        for name in SETTINGS
        if (of := [f"{100 * run['top1']:.1f}" for run in trials if run["setting"] == name])
    ]
    stable = [run for run in trials if run["setting"] == "stable"]
    left = sum(run["left_chance"] for run in stable)
    planned = len(STAGES["baseline"].seeds)
    return (
        "\n### Stage 0: the baseline\n\nCutMix with labels by area, on seeds from 100 on.\n\n"
        + table(["setting", "what differs from the recipe", "runs", "EMA top-1 of each, %"], lines)
        + f"\nWith `stable`, {left} of {len(stable)} runs left chance level (at least {100 * LEFT_CHANCE:.0f} %)"
        + (".\n" if len(stable) == planned else f"; {planned} are planned.\n")
    )


def stage(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """Show one stage: means, the tested differences, what is secondary, and what the rules written before say."""
    planned = STAGES[name]
    done = ["area", *planned.arms] if name == "more" else list(planned.arms)
    values = {one: of_arms(runs, "stable", one) for one in (*OUTCOMES, "steps_to_half", "left_chance")}
    trained = sum(len(values["top1"].get(arm, {})) for arm in planned.arms)
    of = len(planned.arms) * len(planned.seeds)
    title = f"\n### {'Stage 1' if name == 'main' else 'Stage 2'}\n\n"
    if trained < of:  # nothing is looked at before all is there
        return f"{title}Not complete: {trained} of {of} runs are trained. No verdict yet.\n" if trained else ""
    means = [
        [
            arm,
            len(values["top1"][arm]),
            *(_mean(values[one][arm], METRICS[one]) for one in OUTCOMES),
            f"{median(values['steps_to_half'][arm].values()):.0f}",
            f"{sum(values['left_chance'][arm].values()):.0f}",
        ]
        for arm in done
    ]
    heads = ["arm", "seeds", *(METRICS[one].heading for one in OUTCOMES), "median steps to 50 %", "left chance"]
    found = compared(runs, name)
    tests = [
        [
            f"{arm} − {baseline}",
            METRICS[one].heading,
            len(of.each),
            METRICS[one].write_difference(of.mean),
            interval(of, METRICS[one]),
            show_p(of.p),
            show_p(raised),
        ]
        for (arm, baseline, one), (of, raised) in found.items()
    ]
    columns = ["difference", "outcome", "seeds", "mean", "95 % interval", "p", "p by Holm"]
    parts = [
        f"\n### {'Stage 1' if name == 'main' else 'Stage 2'}\n\n",
        table(heads, means),
        "\n",
        table(columns, tests),
    ]
    tested = [arm for arm, baseline in PRIMARY[name] if baseline == "area"]
    winners = [arm for arm in tested if wins(found, arm)]
    parts.append(
        "\nBy the rule written before: " + (f"{', '.join(winners)} beats area" if winners else "none beats area")
    )
    if name == "main":
        parts.append("; the stop rule " + ("holds, and stage 2 is not run" if stops(found) else "does not hold"))
    steps = values["steps_to_half"]
    ranks = "; ".join(f"{arm} {show_p(signed_rank(steps[arm], steps['area']))}" for arm in done if arm != "area")
    parts.append(f".\n\nSecondary: steps to 50 % against area, p of Wilcoxon's signed-rank test: {ranks}.\n")
    parts.append(every_run(values, done))
    return "".join(parts)


def every_run(values: Mapping[str, Mapping[str, Mapping[int, float]]], arms: Sequence[str]) -> str:
    """Show both outcomes of every run, a line a seed."""
    lines = [
        [seed, *(METRICS[one].write(values[one][arm][seed], unit=False) for one in OUTCOMES for arm in arms)]
        for seed in sorted(values["top1"]["area"])
    ]
    heads = [f"{arm}: {METRICS[one].heading}" for one in OUTCOMES for arm in arms]
    return f'\n<details markdown="1"><summary>Every run</summary>\n\n{table(["seed", *heads], lines)}\n</details>\n'


def chance(runs: Sequence[Mapping[str, Any]]) -> str:
    """Show how many runs stay at chance in the setting that stage 0 found unstable."""
    arms = of_arms(runs, "unstable", "left_chance")
    if not arms:
        return ""
    lines = []
    for arm, left in arms.items():
        of, low, high = share(len(left) - int(sum(left.values())), len(left))
        lines.append([arm, len(left), f"{100 * of:.0f} % ({100 * low:.0f} to {100 * high:.0f})"])
    heads = ["arm", "seeds", "stay at chance, 95 % interval"]
    return "\n### The unstable setting\n\n" + table(heads, lines)


def _mean(values: Mapping[int, float], metric: Metric) -> str:
    from transmix.compare.text import show_mean

    return show_mean(mean_of(list(values.values())), metric)


def figure(runs: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Draw each arm's difference from area in top-1, seed by seed; None where nothing is to be drawn."""
    import io

    import matplotlib

    from transmix.compare.statistics import difference
    from transmix.visual.intervals import Estimate, differences_figure

    arms = of_arms(runs, "stable", "top1")
    rows = {}
    for arm, values in arms.items():
        if arm == "area" or (of := difference(values, arms.get("area", {}))) is None:
            continue
        low, high = (None if end is None else 100 * end for end in (of.low, of.high))
        rows[f"{arm} − area, points of top-1"] = Estimate(100 * of.mean, low, high, [100 * one for one in of.each])
    if not rows:
        return None
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "small objects", "svg.fonttype": "path"}):
        differences_figure(rows).savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    return file.getvalue()


def main(words: Sequence[str]) -> int:
    """Write the page and the figure, or compare."""
    found = json.loads(RESULTS.read_text())
    before = PAGE.read_text().partition(MARK)[0]
    drawn, text = figure(found["runs"]), text_of(found)
    shown = "" if drawn is None else f"\n![Each arm's difference from area, seed by seed](pictures/{FIGURE.name})\n"
    page = before + MARK + text + shown
    if "--check" in words:
        same = PAGE.read_text() == page
        print("the page is what this would write" if same else "the page differs: run this without --check")
        return 0 if same else 1
    PAGE.write_text(page)
    if drawn is not None:
        FIGURE.write_bytes(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
