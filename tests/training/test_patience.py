"""Stopping early: after so many evaluations without a better score, over a resume, in all processes, and said."""

import json

import pytest
from safetensors.torch import load_file

from transmix.recipes import RecipeError
from transmix.report.run import write_report
from transmix.runs.log import read_rows
from transmix.training import loop
from transmix.training.loop import train

SCORES = [0.5, 0.75, 0.75, 0.25, 0.875, 1.0]
"""Top-1 after each epoch of five steps: two evaluations without a better one end at step 20."""

WHY = "top-1 has not risen above the 75.00 % of epoch 2 in 2 evaluations (patience 2), at epoch 4 of 6"


@pytest.fixture
def scripted(monkeypatch):
    """Let evaluations find SCORES, by epoch."""
    inner, at_step = loop.evaluate, []
    step = loop.TrainingStep.__call__
    monkeypatch.setattr(
        loop.TrainingStep, "__call__", lambda self, number, *rest: at_step.append(number) or step(self, number, *rest)
    )
    found = lambda *args, **more: inner(*args, **more) | {"top1": SCORES[at_step[-1] // 5]}  # noqa: E731
    monkeypatch.setattr(loop, "evaluate", found)


@pytest.fixture
def recipe(images, small_recipe):
    return lambda **changes: small_recipe(images, epochs=6, ema_decay=None, log_every=50, **changes)


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_a_run_stops_when_its_score_has_not_risen_says_why_and_counts_as_finished(scripted, recipe, tmp_path, capsys):
    run = tmp_path / "run"
    found = train(recipe(patience=2), run, at_end=write_report)
    assert (found["step"], found["finished"], found["stopped_early"]) == (20, True, WHY)
    assert found == summary(run)
    assert (found["best"]["step"], found["best"]["score"]) == (10, 0.75)
    assert [row["top1"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "epoch"] == SCORES[:4]
    said = capsys.readouterr().out
    assert f"\nstopped early: {WHY}\n" in said
    assert "6 epochs of 5 steps of 8 images, or 2 evaluations without a better score; mix transmix" in said
    page = (run / "report.html").read_text()
    assert f"<dt>stopped early</dt><dd><bdi>{WHY}</bdi></dd>" in page
    assert "Finished after 20 steps." in page
    assert (run / "last_boxes.png").exists()
    train(recipe(patience=2), run, resume=True)
    assert "is finished already" in capsys.readouterr().out


def test_with_more_patience_or_none_a_stopped_run_goes_on_to_the_weights_of_one_that_never_stopped(
    scripted, recipe, tmp_path
):
    train(recipe(patience=2), tmp_path / "run")
    found = train(recipe(), tmp_path / "run", resume=True)
    assert (found["step"], found["finished"], found["best"]["score"]) == (30, True, 1.0)
    assert "stopped_early" not in found
    train(recipe(patience=3), tmp_path / "patient")
    assert summary(tmp_path / "patient")["step"] == 30
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "patient"))
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("remembers", [True, False])
def test_a_run_that_died_counts_on_from_its_checkpoint(remembers, scripted, recipe, tmp_path, monkeypatch):
    def die(run, *_):
        if run.step_number == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw_boxes", die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(patience=2), tmp_path / "run")
    if not remembers:  # the negative control: counting anew it would take one evaluation more
        restore = loop.restore
        forgetful = lambda run, checkpoint: restore(run, checkpoint) or setattr(run, "stale", 0)  # noqa: E731
        monkeypatch.setattr(loop, "restore", forgetful)
    train(recipe(patience=2), tmp_path / "run", resume=True)
    assert summary(tmp_path / "run")["step"] == (20 if remembers else 30)


def test_an_evaluation_in_mid_epoch_because_of_max_steps_does_not_count(scripted, recipe, tmp_path):
    assert train(recipe(patience=2, max_steps=17), tmp_path / "run")["finished"] is False
    assert train(recipe(patience=2), tmp_path / "run", resume=True)["step"] == 20


def test_two_processes_choose_one_batch_size_and_stop_together(pair, images, small_recipe, tmp_path):
    still = {"lr": 0.0, "min_lr": 0.0, "warmup_lr": 0.0}  # the score never rises
    recipe = small_recipe(images, epochs=5, patience=2, batch_size=None, **still)
    assert pair("plain", recipe, tmp_path / "run")["codes"] == [0, 0]
    found = summary(tmp_path / "run")
    assert (found["step"], found["finished"]) == (15, True)  # 5 steps an epoch, of 2 x 4 images
    assert "batch_size: 8\n" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert "of epoch 1 in 2 evaluations" in found["stopped_early"]


def test_patience_is_counted_in_whole_evaluations(recipe, tmp_path, says):
    with says(RecipeError, "patience must be at least 1, not 0"):
        train(recipe(patience=0), tmp_path / "run")
