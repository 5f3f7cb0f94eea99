"""Two processes: each image counts once, and torchrun sees who failed. `test_sharded` has what both agree on."""

import json
import os
import re
import signal
import subprocess

import pytest

from transmix.cli import main
from transmix.recipes import dump_recipe
from transmix.runs.checkpoint import load_checkpoint, newest_checkpoint


@pytest.fixture(scope="module")
def undisturbed(pair, small_recipe, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert pair("plain", small_recipe(images), folder)["codes"] == [0, 0]
    return load_checkpoint(newest_checkpoint(folder / "checkpoints")[0]).tensors


def test_without_agreement_only_one_would_stop(pair, small_recipe, images, tmp_path):
    """The negative control: the other process waits for it or fails; it does not save and stop as asked."""
    found = pair("without_agreement", small_recipe(images, max_steps=4), tmp_path / "run")
    assert found["codes"] != [128 + signal.SIGTERM] * 2


@pytest.mark.parametrize("validation", [(1, 1), (3, 2), (9, 4)])
def test_validation_images_that_do_not_divide_are_each_counted_once(
    pair, small_recipe, validated_on, validation, tmp_path
):
    recipe = small_recipe(validated_on(*validation), max_steps=2)
    found = pair("plain", recipe, tmp_path / "run")
    assert found["codes"] == [0, 0], found["said"]
    last = json.loads((tmp_path / "run" / "summary.json").read_text())["last"]
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 0  # in this process alone
    alone = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scores"]
    assert alone["model"]["images"] == sum(validation)
    for prefix, scores in (("", alone["model"]), ("ema_", alone["ema"])):
        assert last[f"{prefix}top1"] == scores["top1"]
        assert last[f"{prefix}val_loss"] == pytest.approx(scores["loss"], abs=1e-6)


def torchrun(python, recipe, out, *more, program, restarts=0):
    """Run `program`, which trains, in two processes under torchrun; give the finished process."""
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "--max-restarts", str(restarts), str(program), str(recipe), str(out), *more],
        capture_output=True,
        text=True,
        timeout=300,  # a process that was not told of the other's end would wait for ten minutes
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


DYING = """
import os, sys
from transmix.cli import main
from transmix.training.step import TrainingStep

step = TrainingStep.__call__

def step_or_die(self, number, *rest, **more):
    first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if number == 7 and os.environ["RANK"] == "1" and first_life:
        if sys.argv[3:]:
            os._exit(9)
        raise RuntimeError("the second process breaks")
    return step(self, number, *rest, **more)

TrainingStep.__call__ = step_or_die
sys.exit(main(["train", "--recipe", sys.argv[1], "--out", sys.argv[2]]))
"""


def test_a_process_that_dies_takes_the_job_down_and_torchrun_starts_it_again_where_it_was(
    warm_python, small_recipe, images, undisturbed, tmp_path
):
    (tmp_path / "dying.py").write_text(DYING)
    (tmp_path / "small.yaml").write_text(dump_recipe(small_recipe(images)))
    done = torchrun(warm_python, tmp_path / "small.yaml", tmp_path / "run", program=tmp_path / "dying.py", restarts=1)
    assert done.returncode == 0, done.stderr
    assert "RuntimeError: the second process breaks" in done.stderr
    assert "going on from step 5" in done.stdout
    resumed = load_checkpoint(newest_checkpoint(tmp_path / "run" / "checkpoints")[0]).tensors
    for kind, tensors in undisturbed.items():
        assert all(resumed[kind][name].equal(tensor) for name, tensor in tensors.items()), kind
    assert done.stdout.count("epoch 1/2") == 1  # the first process talks, the other does not
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    assert not resumed["random-0"]["cpu"].equal(resumed["random-1"]["cpu"])  # dropout differs between processes
    rows = (tmp_path / "run" / "confusion.csv").read_text().splitlines()[1:]
    assert sum(int(cell) for row in rows for cell in row.split(",")[1:]) == 8


@pytest.mark.parametrize("how", ["raises", "exits"])
def test_the_job_ends_soon_and_shows_who_failed_first(how, warm_python, small_recipe, images, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    (tmp_path / "small.yaml").write_text(dump_recipe(small_recipe(images)))
    more = ["at once"] if how == "exits" else []
    done = torchrun(warm_python, tmp_path / "small.yaml", tmp_path / "run", *more, program=tmp_path / "dying.py")
    assert done.returncode == 1
    report = done.stderr[done.stderr.index("Root Cause") :]
    assert re.search(r"rank *: 1 ", report), done.stderr
    if how == "raises":
        assert done.stderr.index("RuntimeError: the second process breaks") == done.stderr.index("Error: ") - 7
        assert "RuntimeError: the second process breaks" in report
        assert "in step_or_die" in report
    else:
        assert re.search(r"exitcode *: 9 ", report)
    assert "lost" not in report
