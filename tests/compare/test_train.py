"""Training what is missing: what is asked of each run, what is taken as it is, what is refused, and going on."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from transmix.cli import compare as verb
from transmix.cli.compare import take_words
from transmix.compare import train as compare_train
from transmix.compare.train import lacks_twin, places, plan, train_missing
from transmix.recipes import RecipeError, dump_recipe, load_recipe, resolved
from transmix.runs.error import RunError
from transmix.training.loop import train

TRAINER = """
import json, pathlib, shutil, sys, time
assert sys.argv[1:3] == ["train", "--recipe"] and sys.argv[4] == "--out" and sys.argv[6:] == ["--resume"], sys.argv
recipe, run = pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[5])
root = run.parent
with open(root / "order", "a") as order: order.write(run.name + "\\n")
if (root / f"break-{run.name}").exists(): sys.exit("the disk is gone")
if (root / f"hang-{run.name}").exists(): time.sleep(600)
shutil.copytree(root.parent / "model_run", run, dirs_exist_ok=True)
shutil.copyfile(recipe, run / "recipe.yaml")
"""


@pytest.fixture
def recipe_file(made_run, tmp_path, monkeypatch):
    """A recipe, and in place of `transmix train` what leaves a finished run at once."""
    made_run(tmp_path / "model_run")
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.setattr(compare_train, "PROGRAM", (sys.executable, str(tmp_path / "trainer.py")))
    path = tmp_path / "small.yaml"
    path.write_text((tmp_path / "model_run" / "recipe.yaml").read_text())
    return path


def compare(recipe_file, out, *words):
    return verb.main(["--mix", "cutmix", "transmix", "--recipe", str(recipe_file), "--out", str(out), *words])


def order(out):
    return (out / "order").read_text().split()


def test_words_after_mix_are_mixes_up_to_the_next_option():
    assert take_words(["a", "b"], "--mix") == (None, ["a", "b"])
    asked = ["--mix", "cutmix", "transmix", "--seeds", "3"]
    assert take_words(asked, "--mix") == (["cutmix", "transmix"], ["--seeds", "3"])
    asked = ["--lr", "1", "--mix=none", "mixup+cutmix", "--labels", "area", "line"]
    assert take_words(asked, "--mix") == (["none", "mixup+cutmix"], ["--lr", "1", "--labels", "area", "line"])
    assert take_words(asked, "--labels") == (["area", "line"], ["--lr", "1", "--mix", "none", "mixup+cutmix"])


def test_each_mix_and_seed_is_planned_seed_by_seed_and_nothing_else_differs(recipe_file):
    recipe = load_recipe(str(recipe_file))
    planned = plan(recipe, ["cutmix", "transmix"], 2)
    assert list(planned) == ["cutmix-seed0", "transmix-seed0", "cutmix-seed1", "transmix-seed1"]
    one = planned["transmix-seed1"]
    assert (one.mixing.mix, one.run.seed) == ("transmix", 1)
    assert (one.data, one.optimization, one.model) == (recipe.data, recipe.optimization, recipe.model)


def test_each_mix_is_planned_with_each_label_rule_and_the_settings_that_the_rule_has(recipe_file):
    recipe = load_recipe(str(recipe_file))
    options = {"weight": 0.25, "sigma": 0.5, "downsample": "fraction"}
    recipe = replace(recipe, mixing=replace(recipe.mixing, labels_options=options))
    planned = plan(recipe, ["cutmix", "mixup+cutmix"], 1, ["area", "attention", "centre"])
    assert list(planned) == [
        "cutmix-seed0",
        "cutmix-by-attention-seed0",
        "cutmix-by-centre-seed0",
        "mixup+cutmix-seed0",
        "transmix-seed0",
        "mixup+cutmix-by-centre-seed0",
    ]
    assert [one.mixing.labels_options for one in list(planned.values())[:3]] == [
        {},
        {"weight": 0.25, "downsample": "fraction"},
        {"weight": 0.25, "sigma": 0.5},
    ]
    with pytest.raises(RecipeError, match="transmix is asked for twice, under two names"):
        plan(recipe, ["transmix", "mixup+cutmix"], 1, ["attention"])


@pytest.mark.parametrize(
    ("mixes", "labels", "settings", "lacks"),
    [
        (["cutmix", "transmix"], [], {}, True),
        (["mixup+cutmix", "transmix"], [], {}, False),
        (["cutmix", "transmix"], [], {"mixup_alpha": 0.0}, False),
        (["cutmix"], ["area", "line"], {}, False),
        (["cutmix"], ["line", "attention"], {}, True),
        (["cutmix", "mixup"], [], {}, False),
    ],
)
def test_labels_by_a_rule_have_a_twin_where_the_same_mix_has_labels_by_area(
    recipe_file, mixes, labels, settings, lacks
):
    recipe = load_recipe(str(recipe_file))
    recipe = replace(recipe, mixing=replace(recipe.mixing, **settings))
    assert lacks_twin(plan(recipe, mixes, 1, labels).values()) == lacks


@pytest.mark.parametrize("at_once", [None, 1, 2, 5])
def test_threads_and_workers_of_a_run_do_not_depend_on_how_many_run_at_a_time(recipe_file, at_once):
    recipe = load_recipe(str(recipe_file))
    recipe = compare_train.replace(recipe, run=compare_train.replace(recipe.run, device="cpu", threads=None))
    fixed, slots = places(recipe, at_once)
    assert (fixed.run.threads, fixed.data.workers) == (1, 0)
    assert slots == [{"OMP_NUM_THREADS": "1"}] * (at_once or len(os.sched_getaffinity(0)))


def test_each_gpu_is_a_place(recipe_file, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    recipe = load_recipe(str(recipe_file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in places(recipe)[1]] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in places(recipe)[1]] == ["2", "7"]
    with pytest.raises(RecipeError, match=r"^--at-once 3 is more than the 2 GPUs available; each run uses one$"):
        places(recipe, 3)


def test_it_trains_compares_and_writes_and_takes_what_is_there(recipe_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare(recipe_file, out, "--seeds", "2", "--at-once", "1", "--device", "cpu") == 0
    assert order(out) == ["cutmix-seed0", "transmix-seed0", "cutmix-seed1", "transmix-seed1"]
    numbers = json.loads((out / "compare.json").read_text())
    assert [(group["name"], group["seeds"]) for group in numbers["groups"]] == [
        ("cutmix", [0, 1]),
        ("transmix", [0, 1]),
    ]
    assert numbers["command"].startswith("transmix compare --mix cutmix transmix --recipe ")
    assert "| transmix |" in capsys.readouterr().out
    before = (out / "compare.json").read_bytes()
    assert compare(recipe_file, out, "--seeds", "2", "--at-once", "1", "--device", "cpu") == 0
    assert len(order(out)) == 4
    assert (out / "compare.json").read_bytes() == before
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    assert compare(recipe_file, out, "--seeds", "3", "--at-once", "1", "--device", "cpu") == 0
    assert order(out)[4:] == ["cutmix-seed2", "transmix-seed2"]


def test_overrides_reach_every_run(recipe_file, tmp_path):
    out = tmp_path / "out"
    compare(recipe_file, out, "--seeds", "1", "--lr", "0.5", "--model-options", "depth=3", "--device", "cpu")
    for mix in ("cutmix", "transmix"):
        recipe = load_recipe(str(out / f"{mix}-seed0" / "recipe.yaml"))
        assert (recipe.mixing.mix, recipe.optimization.lr) == (mix, 0.5)
        assert recipe.model.model_options["depth"] == 3
        assert recipe.model.model_options["embed_dim"] == 64


def test_other_settings_than_a_run_there_are_refused_before_anything_is_trained(recipe_file, tmp_path):
    out = tmp_path / "out"
    compare(recipe_file, out, "--seeds", "1", "--device", "cpu")
    with pytest.raises(RunError) as refused:
        compare(recipe_file, out, "--seeds", "2", "--epochs", "9", "--device", "cpu")
    assert str(refused.value) == (
        f"{out / 'cutmix-seed0'} was trained with other settings: epochs: 6 -> 9. Ask for the same, give another "
        f"--out, or remove it first"
    )
    assert len(order(out)) == 2


def test_a_run_that_fails_is_named_the_others_are_compared_and_the_next_call_tries_again(recipe_file, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "break-transmix-seed1").touch()
    with pytest.raises(RunError) as failed:
        compare(recipe_file, out, "--seeds", "2", "--device", "cpu")
    assert failed.value.code == 1
    assert str(failed.value) == "1 of 4 runs failed: transmix-seed1; the same command tries again"
    assert "transmix-seed1 failed (exit code 1)" in (said := capsys.readouterr().out)
    assert "    the disk is gone" in said
    assert [group["seeds"] for group in json.loads((out / "compare.json").read_text())["groups"]] == [[0, 1], [0]]
    (out / "break-transmix-seed1").unlink()
    assert compare(recipe_file, out, "--seeds", "2", "--device", "cpu") == 0


def test_where_all_fail_it_is_said_and_nothing_is_written(recipe_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for mix in ("cutmix", "transmix"):
        (out / f"break-{mix}-seed0").touch()
    with pytest.raises(RunError, match=r"^2 of 2 runs failed: .*; the same command tries again\. nothing to compare"):
        compare(recipe_file, out, "--seeds", "1", "--device", "cpu")
    assert not (out / "compare.html").exists()


def test_a_signal_stops_it_and_a_second_call_goes_on(recipe_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "hang-transmix-seed0").touch()
    words = ["--seeds", "1", "--at-once", "1", "--device", "cpu"]
    refused = []

    def meanwhile():
        until = time.monotonic() + 300
        while not ((out / "order").exists() and len(order(out)) == 2) and time.monotonic() < until:
            time.sleep(0.02)
        try:
            compare(recipe_file, out, *words)
        except RunError as error:
            refused.append(str(error))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=meanwhile).start()
    with pytest.raises(RunError) as stopped:
        compare(recipe_file, out, *words)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert str(stopped.value) == ("stopped by SIGTERM with 1 of 2 runs finished; repeat the command to continue")
    assert refused == [
        f"another transmix compare is running in {out}, or training runs that it started; wait until they end"
    ]
    (out / "hang-transmix-seed0").unlink()
    assert compare(recipe_file, out, *words) == 0
    assert order(out) == ["cutmix-seed0", "transmix-seed0", "transmix-seed0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "cutmux"], "mix: no method is called 'cutmux'; did you mean cutmix?"),
        (["--mix"], "--mix names no mix; for instance --mix cutmix transmix"),
        (["--mix", "cutmix", "cutmix"], "--mix has cutmix twice"),
        (["--mix", "cutmix", "--labels", "area", "area"], "--labels has area twice"),
        (["--mix", "cutmix", "--labels"], "--labels names no rule; for instance --labels area attention"),
        (["--labels", "area", "atention"], "labels: no rule is called 'atention'; did you mean attention?"),
        (["--mix", "cutmix", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (
            ["--mix", "cutmix", "--seeds", "1"],
            "one run cannot be compared; name more mixes or labels, or give more --seeds",
        ),
        (["--mix", "cutmix", "--at-once", "0"], "--at-once must be at least 1, not 0"),
        (["--mix", "cutmix", "--seed", "3"], "give --seeds N, the number of seeds, instead of --seed"),
        (
            ["--mix", "cutmix", "--max-steps", "3"],
            "--max-steps stops runs before their end, and those are not compared; give --epochs instead",
        ),
        (
            ["--mix", "cutmix", "--out", "x.html"],
            "--out is a folder where runs are trained, got x.html; the page is compare.html in it",
        ),
        (["run", "--out", "x.pdf"], "--out is the page to write and ends in .html, got x.pdf"),
        (["--mix", "mixup", "--mixup-alpha", "0"], "mixup_alpha 0 turns off what --mix mixup asks for"),
    ],
)
def test_mistakes_get_one_clear_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as refused:
        verb.main(words)
    assert str(refused.value) == message
    assert list(tmp_path.iterdir()) == []


def test_transmix_without_a_twin_is_noted_before_anything_is_trained(recipe_file, tmp_path, capsys):
    compare(recipe_file, tmp_path / "a", "--seeds", "1", "--device", "cpu")
    assert "note: A group whose labels follow a rule has no twin" in capsys.readouterr().out
    compare(recipe_file, tmp_path / "b", "--seeds", "1", "--device", "cpu", "--mixup-alpha", "0")
    assert "note:" not in capsys.readouterr().out


def test_a_real_training_as_a_process_equals_the_same_one_here_to_the_bit(
    warm_python, images, small_recipe, tmp_path, monkeypatch
):
    """The one run left to train comes out as in this process; the finished one is taken."""
    assert (sys.executable, "-m", "transmix") == compare_train.PROGRAM
    monkeypatch.setattr(compare_train, "PROGRAM", (warm_python, "-m", "transmix"))
    recipe = small_recipe(images, epochs=1, device="cpu")
    out = tmp_path / "out"
    planned = plan(places(recipe)[0], ["none", "transmix"], 1)
    train(planned["none-seed0"], out / "none-seed0")
    train(planned["transmix-seed0"], tmp_path / "here")
    outcome = train_missing(planned, out, places(recipe, 2)[1])
    assert outcome.done == ("transmix-seed0",)
    for name in ("model.safetensors", "ema.safetensors", "confusion.csv"):
        assert (out / "transmix-seed0" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    runs = [str(out / name) for name in planned]
    assert verb.main([*runs, "--out", str(tmp_path / "page.html")]) == 0
    assert {path.suffix for path in tmp_path.glob("page.*")} == {".html", ".md", ".json"}
    assert Path(tmp_path / "page.html").stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("mixes", "labels", "settings", "message"),
    [
        (
            ["cutmix"],
            ["area", "attention"],
            {"labels_options": {"wieght": 0.9}},
            "none of the runs has a setting 'wieght'",
        ),
        (["cutmix+mixup", "mixup+cutmix"], [], {}, "mixup+cutmix is asked for twice, under two names"),
        (
            ["none", "cutmix"],
            ["area", "attention"],
            {},
            "none by attention: TransMix would change nothing here: mix none",
        ),
    ],
)
def test_what_would_train_the_same_or_nothing_is_refused_before_anything_is_trained(
    recipe_file, mixes, labels, settings, message
):
    recipe = load_recipe(str(recipe_file))
    recipe = replace(recipe, mixing=replace(recipe.mixing, **settings))
    with pytest.raises(RecipeError, match=message.replace("+", r"\+")):
        plan(recipe, mixes, 2, labels)


def test_settings_of_the_recipes_own_rule_do_not_go_over_to_another(recipe_file, tmp_path, monkeypatch):
    """The share of attention in a run's recipe.yaml is no share of the centre's prior."""
    path = tmp_path / "own.yaml"
    recipe = load_recipe(str(recipe_file))
    mixing = replace(recipe.mixing, mix="transmix", labels_options={"weight": 0.25})
    path.write_text(dump_recipe(resolved(replace(recipe, mixing=mixing))))
    planned = []
    monkeypatch.setattr(verb, "train_missing", lambda plan, *_: planned.append(plan) or sys.exit(0))
    with pytest.raises(SystemExit):
        verb.main(["--labels", "attention", "centre", "area", "--recipe", str(path), "--seeds", "1"])
    weights = [resolved(one).mixing.labels_options.get("weight") for one in planned[0].values()]
    assert weights == [0.25, 1.0, None]
    with pytest.raises(SystemExit):
        verb.main(["--labels", "attention", "centre", "--labels-options", "weight=0.7", "--recipe", str(path)])
    assert {resolved(one).mixing.labels_options["weight"] for one in planned[1].values()} == {0.7}
