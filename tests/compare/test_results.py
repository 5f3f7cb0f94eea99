"""docs/results.md is what the figures say, and the harness keeps what a figure depends on."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from transmix.compare import train as compare_train

ROOT = Path(__file__).resolve().parents[2]


def script(name):
    """Load a script of benchmarks/compare, which may import those beside it as it does when it is run."""
    folder = ROOT / "benchmarks" / "compare"
    found = importlib.util.spec_from_file_location(f"compare_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(folder))
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


results, run, suites = script("results"), script("run"), script("suites")

TRAINER = """
import json, pathlib, shutil, sys
recipe, run = pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[5])
if run.name == "mixup-seed1": sys.exit("it broke")
shutil.copytree(pathlib.Path(sys.argv[0]).parent / "made" / run.name, run, dirs_exist_ok=True)
shutil.copyfile(recipe, run / "recipe.yaml")
"""


@pytest.fixture(scope="module")
def collected(made_run, tmp_path_factory):
    """A comparison of made-up trainings, one of which fails, as the harness writes it down."""
    root = tmp_path_factory.mktemp("harness")
    for index, mix in enumerate(run.MIXES):
        for seed in range(3):
            made_run(root / "made" / f"{mix}-seed{seed}", mix, seed, 0.9 + index / 300 + (seed * index % 4) / 150)
    (root / "trainer.py").write_text(TRAINER)
    (root / "results").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_train, "PROGRAM", (sys.executable, str(root / "trainer.py")))
        patch.setattr(run, "RESULTS", root / "results")
        patch.setitem(run.BUDGETS, "tiny", run.Budget("digits32", seeds=3, settings=("--epochs", "6")))
        words = ["tiny", "--out", str(root / "runs"), "--device", "cpu", "--remark", "Seed 1 of mixup: the disk."]
        words += ["--data", str(root / "DIGITS")]
        assert run.main(words) == 0
    return root / "results"


def test_the_page_is_what_the_generator_makes():
    made = results.page(results.RESULTS)
    assert results.PAGE.read_text() == made, "make it again: python benchmarks/compare/results.py"


def test_the_figures_of_the_readme_are_what_the_files_say(tmp_path):
    text = results.README.read_text()
    assert text == results.put_into(text, results.RESULTS), "make them again: python benchmarks/compare/results.py"
    copy = tmp_path / "results"
    shutil.copytree(results.RESULTS, copy)
    changes = {"step_overhead_cpu": ('"ratio": ', '"ratio": 1'), "label_truth_pets3": ("0.0", "0.3")}
    for name, (old, new) in changes.items():
        path = copy / f"{name}.json"
        path.write_text(path.read_text().replace(old, new))
        assert results.put_into(text, copy) != text
        shutil.copyfile(results.RESULTS / path.name, path)


def test_a_figure_that_changed_by_hand_would_be_seen(tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(results.RESULTS, copy)
    found = json.loads((copy / "compare_digits32.json").read_text())
    found["groups"][0]["runs"][0]["scores"]["ema_top1"] += 0.0001
    (copy / "compare_digits32.json").write_text(json.dumps(found))
    assert results.page(copy) != results.page(results.RESULTS)


def test_every_file_of_figures_is_shown_or_listed():
    text = results.page(results.RESULTS)
    for path in results.RESULTS.iterdir():
        if path.suffix in (".json", ".txt"):
            assert f"](../benchmarks/results/{path.name})" in text


def test_every_section_says_command_commit_seeds_machine_versions_and_file():
    sections = re.split(r"^## ", results.page(results.RESULTS), flags=re.MULTILINE)[1:]
    shown = [one for one in sections if not one.startswith(("More files", "Comparison"))]
    assert len(shown) >= 3
    for section in shown:
        for key in ("command", "commit", "seeds", "machine", "versions", "file"):
            assert re.search(rf"^- {key}: \S", section, flags=re.MULTILINE), (key, section[:60])


def test_the_harness_keeps_every_run_with_what_it_depends_on(collected):
    found = json.loads((collected / "compare_tiny.json").read_text())
    assert found["command"].startswith(
        "transmix compare --recipe digits32 --mix none mixup cutmix mixup+cutmix transmix "
    )
    assert str(collected.parent) not in json.dumps(found)
    assert [group["name"] for group in found["groups"]] == list(run.MIXES)
    assert found["groups"][0]["settings"]["epochs"] == 6
    runs = [one for group in found["groups"] for one in group["runs"]]
    assert len(runs) == 14
    for one in runs:
        assert one["environment"]["packages"]["torch"] == "2.15.0"
        assert one["images"] == 1070
        assert len(one["curve"]) == 6
    assert found["remarks"][0] == "Seed 1 of mixup: the disk."
    assert found["remarks"][1] == "1 of 15 runs failed: mixup-seed1; the same command tries again"


def test_its_page_shows_scores_differences_and_negative_results(collected):
    text = results.page(collected)
    found = json.loads((collected / "compare_tiny.json").read_text())
    assert "No comparison under equal recipes" not in text
    group = found["groups"][4]
    mean = group["means"]["ema_top1"]
    assert f"| transmix | 3 | {100 * mean['mean']:.2f} ± {100 * mean['sd']:.2f} |" in text
    for one in found["differences"]:
        assert f"- {one['group']} − {one['baseline']}: {one['verdict']}" in text
    assert "Not more than noise" in text
    assert "> Seed 1 of mixup: the disk." in text
    assert "> 1 of 15 runs failed: mixup-seed1" in text
    score = group["runs"][1]["scores"]["ema_top1"]
    assert f"| transmix | 1 | {100 * score:.2f} |" in text


def test_the_first_screen_is_what_the_comparisons_say():
    text = results.page(results.RESULTS)
    first = text.partition("\n## ")[0]
    wanted = []
    for name in ("cifar100_small", "digits", "digits32"):
        found = json.loads((results.RESULTS / f"compare_{name}.json").read_text())
        (one,) = [
            one for one in found["differences"] if (one["group"], one["baseline"]) == ("transmix", "mixup+cutmix")
        ]
        assert one["verdict"].startswith("Not more than noise")
        mean = next(group["means"]["ema_top1"]["mean"] for group in found["groups"] if group["name"] == "transmix")
        wanted.append(f"| {100 * mean:.2f} ± ")
        wanted.append(f"| {100 * one['scores']['ema_top1']['mean']:+.2f} (".replace("-", "−"))
    assert [one for one in wanted if one not in first] == []
    assert "more than noise in 0 of 5 comparisons" in first
    nearer = 0
    for name in ("pets3", "small_digits"):
        truth = json.loads((results.RESULTS / f"label_truth_{name}.json").read_text())["truth"]
        rules = {row["model"]: row["rules"] for row in truth if row["epoch"] == max(one["epoch"] for one in truth)}[
            "ema"
        ]
        area, transmix, *nulls = (rules[rule]["error"][0] for rule in ("area", "mean", "line", "centre", "mean_map"))
        assert (
            f": area {area:.3f}, TransMix {transmix:.3f}, best of the rules that look at nothing {min(nulls):.3f}"
            in first
        )
        nearer += transmix < min(nulls)
    assert f"in {nearer} of 2 models. Mean error, pets3" in first
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)[:-1]  # the last lists further files
    assert re.findall(r"\[([^]]+)\]\(#", first) == [heading.replace("_", r"\_") for heading in headings]
    assert len(first.splitlines()) < 30


def test_thirteen_groups_make_no_table_wider(tmp_path):
    found = json.loads((results.RESULTS / "compare_digits.json").read_text())
    for number in range(8):
        found["groups"].append({**found["groups"][2], "name": f"method {number}"})
        found["differences"].append({**found["differences"][0], "group": f"method {number}", "common": "the seed"})
    (tmp_path / "compare_digits_methods.json").write_text(json.dumps(found))
    text, before = results.page(tmp_path), results.page(results.RESULTS)
    widest = [max(line.count("|") for line in page.splitlines()) for page in (text, before)]
    assert widest[0] <= widest[1]
    assert "## Comparison: digits methods" in text
    assert sum(line.startswith("| method 7 |") for line in text.splitlines()) == 1 + 4 + 5  # means, suites, each seed


def test_the_new_form_of_benchmark_files_is_shown(tmp_path):
    row = {"case": "a|b", "variant": "x", "peer": "y", "median_ms": 1.25, "ratio": 1.1, "ratio_quartiles": [1.0, 1.2]}
    about = {"benchmark": "step_overhead", "command": "python it", "device": "a CPU", "cores": 2, "threads": 1}
    about |= {"versions": {"torch": "2.15.0"}, "python": "3.11", "commit": "abc", "rows": [row | {"peak_mb": 12.5}]}
    (tmp_path / "new.json").write_text(json.dumps(about))
    (tmp_path / "odd.json").write_text("{}")
    text = results.page(tmp_path)
    assert r"| a\|b | x | 1.250 | 1.100 (1.000 to 1.200) | 12.500 |" in text
    assert "- commit: abc" in text
    assert "- [benchmarks/results/odd.json](../benchmarks/results/odd.json)" in text


def test_an_unknown_comparison_is_one_line(capsys):
    assert run.main(["digitz"]) == 2
    assert capsys.readouterr().err.startswith("transmix: name a comparison: digits, ")


def test_every_budget_can_be_planned():
    """The recipes are there and their settings fit; of a set that is not, a name stands in."""
    from transmix.cli.compare import TrainAndCompare
    from transmix.cli.options import parse
    from transmix.compare.train import plan
    from transmix.recipes import load_recipe

    for budget in run.BUDGETS.values():
        settings = ["--data", "somewhere", *budget.settings]
        asked = parse(TrainAndCompare, "compare", settings, TrainAndCompare(settings=load_recipe(budget.recipe)))
        planned = plan(asked.settings, budget.mixes, budget.seeds)
        assert len(planned) == len(budget.mixes) * budget.seeds


def found_by_suites(seed, better):
    """What `transmix evaluate` writes, as far as the page shows it."""
    values = {"ratios": [0.0, 0.5], "random": [0.9, 0.5 + seed / 100 + better], "salient": [0.9, 0.25]}
    return {"occlusion": {"ema": values, "model": {**values, "random": [0.9, 0.1]}}}


def test_figures_of_suites_are_means_over_seeds_and_a_difference_seed_by_seed():
    """By hand: 0.50, 0.51, 0.52, and 0.02, 0.03, 0.04 higher; t = 0.03 / (0.01 / sqrt 3), 4.303 its 97.5 % point."""
    groups = [
        {"name": name, "runs": [{"seed": seed, "suites": found_by_suites(seed, gain(seed))} for seed in range(3)]}
        for name, gain in (("cutmix", lambda seed: 0), ("transmix", lambda seed: 0.02 + seed / 100))
    ]
    text = suites.shown(groups, "ema", [{"group": "transmix", "baseline": "cutmix"}])
    half = 4.303 * 0.01 / 3**0.5
    interval = f"+{100 * (0.03 - half):.2f} to +{100 * (0.03 + half):.2f}"
    assert f"| top-1, half the patches dropped (%) | +3.00 ({interval}) | 0.035 | 0.035 |" in text
    assert "|  | top-1, half the patches dropped (%) | top-1, the salient half dropped (%) |" in text
    assert "| cutmix | 51.00 ± 1.00 | 25.00 ± 0.00 |" in text
    assert "| transmix | 54.00 ± 2.00 | 25.00 ± 0.00 |" in text
    assert "`transmix evaluate RUN --suite occlusion`" in text
    assert "10.00 ± 0.00" in suites.shown(groups, "model", [])


def test_figures_that_some_runs_lack_are_not_shown():
    groups = [{"name": "cutmix", "runs": [{"seed": 0, "suites": found_by_suites(0, 0)}, {"seed": 1, "suites": {}}]}]
    assert "50.00" in suites.shown(groups, "ema", [])
    groups.append({"name": "transmix", "runs": [{"seed": 0, "suites": {}}]})
    assert suites.shown(groups, "ema", []) == ""


def test_a_run_is_measured_once(tmp_path, monkeypatch):
    asked = []

    def evaluate(words):
        asked.append(words)
        (tmp_path / "evaluation.json").write_text(json.dumps({"scores": {}, **found_by_suites(0, 0)}))

    monkeypatch.setattr(suites, "evaluate", evaluate)
    words = ("occlusion", "--occlusion-ratios", "0", "0.5")
    assert suites.measure(tmp_path, words) == suites.measure(tmp_path, words) == found_by_suites(0, 0)
    assert asked == [[str(tmp_path), "--suite", *words]]
    (tmp_path / "evaluation.json").write_text('{"scores": {}}')  # of an evaluation without suites
    assert suites.measure(tmp_path, words) == found_by_suites(0, 0)
    assert len(asked) == 2
