"""Which of a run's weights stand for it is decided by one rule, said in words, and never for an average left behind."""

import json
import re
import shutil

import pytest
import yaml
from safetensors.torch import load_file

from transmix.cli import main
from transmix.compare import compare_runs, read_run
from transmix.recipes import resolved
from transmix.runs.checkpoint import list_checkpoints, write_manifest
from transmix.runs.error import RunError
from transmix.runs.folder import read_recipe
from transmix.runs.log import read_rows
from transmix.runs.weights import better_weights, choose_weights, ema_is_far_below
from transmix.training.loop import train

SLOW = {"ema_decay": 0.99996, "lr": 5e-3, "batch_size": 8, "epochs": 3, "warmup_epochs": 0.0}


@pytest.fixture(scope="module")
def slow(images, small_recipe, tmp_path_factory):
    """A run whose average does not warm up, so that it is still what it started as."""
    folder = tmp_path_factory.mktemp("slow") / "run"
    train(small_recipe(images, ema_warmup=False, **SLOW), folder)
    last = json.loads((folder / "summary.json").read_text())["last"]
    assert (last["top1"], last["ema_top1"]) == (1.0, 0.5)
    return folder


@pytest.fixture(scope="module")
def warm(images, small_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm") / "run"
    train(small_recipe(images, **SLOW), folder)
    return folder


@pytest.mark.parametrize(
    ("model", "ema", "images", "far"),
    [
        (0.4467, 0.3267, 150, True),  # two standard errors are .113
        (0.4467, 0.3467, 150, False),
        (0.80, 0.76, 10**6, False),  # below, and surely so, but not by five points
        (0.80, 0.74, 10**6, True),
        (0.80, 0.74, 100, False),  # six images
        (0.80, 0.74, None, True),  # a log of an older version
        (0.76, 0.80, 1000, False),
        (1.0, 0.5, 8, True),
        (1.0, 1.0, 8, False),
        (0.0, 0.0, 8, False),
        (0.5, None, 8, False),
    ],
)
def test_an_average_is_far_below_by_five_points_and_more_than_chance(model, ema, images, far):
    scores = {"top1": model, "ema_top1": ema, "val_images": images}
    known = {name: value for name, value in scores.items() if value is not None}
    assert ema_is_far_below(known) is far
    assert better_weights(known) == ("ema" if ema is not None and not far else "model")


def test_without_warm_up_the_average_is_left_behind_and_best_and_auto_take_the_model_and_say_so(slow, tmp_path, capsys):
    summary = json.loads((slow / "summary.json").read_text())
    epochs = [row for row in read_rows(slow / "metrics.jsonl") if row["kind"] == "epoch"]
    scores = [row["top1" if better_weights(row) == "model" else "ema_top1"] for row in epochs]
    assert summary["best"]["score"] == max(scores) == 1.0
    assert summary["best"]["weights"] == "model"
    found = "EMA top-1 50.00 %, model 100.00 %"
    for checkpoint in ("last", "best"):
        chosen = choose_weights(slow, checkpoint)
        assert chosen.name == "model"
        assert str(chosen) == (
            f"model of step {chosen.step} ({checkpoint} checkpoint): the EMA is far below ({found}); "
            f"--weights ema takes it all the same"
        )
    assert main(["export", str(slow), "--out", str(tmp_path / "auto")]) == 0
    assert capsys.readouterr().out.startswith(f"weights: {choose_weights(slow)}\n")
    exported, kept = load_file(tmp_path / "auto" / "model.safetensors"), load_file(slow / "model.safetensors")
    assert all(exported[name].equal(kept[name]) for name in kept)
    assert str(choose_weights(slow)) in (tmp_path / "auto" / "README.md").read_text()
    assert main(["export", str(slow), "--out", str(tmp_path / "ema"), "--weights", "ema"]) == 0
    assert f"asked for with --weights ema; warning: it is far below ({found})" in capsys.readouterr().out


def test_an_average_left_behind_is_a_warning_at_the_end_of_training_and_wherever_it_is_measured(
    slow, warm, images, small_recipe, tmp_path, capsys
):
    shutil.copytree(slow, tmp_path / "run")
    train(small_recipe(images, ema_warmup=False, **{**SLOW, "epochs": 4}), tmp_path / "run", resume=True)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(said) == 1
    assert re.match(r"warning: the EMA is far below .*\(EMA top-1 50\.00 %, model 100", said[0])
    assert main(["evaluate", str(slow), "--workers", "0"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == ("weights: model and EMA of step 15 (last checkpoint)")
    gap = "EMA top-1 50.00 %, model 100.00 %"
    assert f"warning: the EMA is far below the model: {gap}" in shown
    assert json.loads((slow / "evaluation.json").read_text())["weights"] == shown[0].removeprefix("weights: ")
    assert main(["report", str(slow)]) == 0
    page = (slow / "report.html").read_text()
    assert "The EMA is far below the model, which stands for the run" in page
    assert gap in page
    found = compare_runs([read_run(slow), read_run(warm)])
    assert "EMA top-1 is compared, but far below the model in run." in found.cautions


def test_with_warm_up_the_same_run_has_an_average_that_follows(warm):
    last = json.loads((warm / "summary.json").read_text())["last"]
    assert last["ema_top1"] > 0.8
    assert choose_weights(warm).name == "ema"


def test_a_run_that_kept_no_average_says_so(slow, tmp_path, says):
    run = shutil.copytree(slow, tmp_path / "run")
    for folder in list_checkpoints(run / "checkpoints"):
        (folder / "ema.safetensors").unlink()
        (folder / "manifest.json").unlink()
        write_manifest(folder)
    assert str(choose_weights(run)) == "model of step 15 (last checkpoint): the run has no EMA"
    with says(RunError, f"{run} has no EMA (ema_decay was not set); use --weights model"):
        choose_weights(run, weights="ema")


def as_older(run):
    """Take out of a run what the version before did not write."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    del recipe["optimization"]["ema_warmup"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for folder in list_checkpoints(run / "checkpoints"):
        state = json.loads((folder / "state.json").read_text())
        del state["ema_updates"]
        (folder / "state.json").write_text(json.dumps(state, indent=1))
        (folder / "manifest.json").unlink()
        write_manifest(folder)


def test_a_run_from_before_there_was_a_warm_up_goes_on_without_again_and_again(images, small_recipe, tmp_path, capsys):
    plain = {"ema_decay": 0.9, "checkpoint_every": 2, "epochs": 1}
    train(small_recipe(images, ema_warmup=False, **plain), tmp_path / "whole")
    train(small_recipe(images, ema_warmup=False, max_steps=2, **plain), tmp_path / "run")
    as_older(tmp_path / "run")
    assert read_recipe(tmp_path / "run").optimization.ema_warmup is False
    for steps in (4, None):  # the same command as before, which knows nothing of the new setting
        capsys.readouterr()
        train(small_recipe(images, max_steps=steps, **plain), tmp_path / "run", resume=True)
        assert capsys.readouterr().out.splitlines()[0] == (
            "as the run was started, it continues with ema_warmup: True -> False (asked for -> used)"
        )
    for name in ("model", "ema"):
        ours, expected = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("run", "whole"))
        assert all(ours[weight].equal(expected[weight]) for weight in expected)
    train(small_recipe(images, **plain), tmp_path / "new")
    new = load_file(tmp_path / "new" / "ema.safetensors")
    assert not all(new[weight].equal(expected[weight]) for weight in expected)


def test_an_older_run_without_an_average_is_one_with_a_new_run(images, small_recipe, tmp_path):
    train(small_recipe(images, ema_decay=None, max_steps=1), tmp_path / "run")
    as_older(tmp_path / "run")
    assert read_recipe(tmp_path / "run") == resolved(small_recipe(images, ema_decay=None, max_steps=1))


def test_resumed_at_a_count_of_its_own_the_warm_up_goes_on_where_it_stopped(images, small_recipe, tmp_path):
    settings = {"ema_decay": 0.99, "accumulate": 2, "checkpoint_every": 3, "epochs": 1}
    train(small_recipe(images, **settings), tmp_path / "whole")
    train(small_recipe(images, max_steps=3, **settings), tmp_path / "run")
    state = json.loads((list_checkpoints(tmp_path / "run" / "checkpoints")[-1] / "state.json").read_text())
    assert (state["step"], state["ema_updates"]) == (3, 3)  # one an optimizer step, not one a micro-batch
    train(small_recipe(images, **settings), tmp_path / "run", resume=True)
    ours, expected = (load_file(tmp_path / run / "ema.safetensors") for run in ("run", "whole"))
    assert all(ours[weight].equal(expected[weight]) for weight in expected)
