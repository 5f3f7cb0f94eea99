"""A save that fails costs a run a line; the last one, or three in a row, stop it; a restore fits or is refused."""

import errno
import json
import os
import shutil

import pytest
import torch

from transmix.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, set_random_state
from transmix.runs.error import CheckpointError, RunError
from transmix.training import checkpoint_state


@pytest.fixture
def full_disk(monkeypatch):
    """Let every save fail until the function that this gives is called."""

    def refuse(root, checkpoint):
        raise CheckpointError(f"cannot write {root}: No space left on device (free some space there)")

    monkeypatch.setattr(checkpoint_state, "save_checkpoint", refuse)
    return lambda: monkeypatch.setattr(checkpoint_state, "save_checkpoint", save_checkpoint)


def save_steps(run, *steps):
    for step in steps:
        run.step_number = step
        checkpoint_state.save(run)


def test_what_was_saved_is_restored(run):
    run.best, run.reads = {"score": 0.5, "step": 1, "epoch": 1}, [{"step": 1, "steps": 1, "loss": 0.25}]
    run.log.write("train", 1, {})
    checkpoint_state.save(run)
    weights = {name: value.clone() for name, value in run.bare.state_dict().items()}
    drawn = torch.rand(3)
    with torch.no_grad():
        run.bare.weight.zero_()
    state = {weight: dict(kinds) for weight, kinds in run.step.optimizer.state.items()}
    for kinds in run.step.optimizer.state.values():
        kinds.clear()
    best, reads, run.best, run.reads, run.step_number = run.best, run.reads, None, [], 0
    checkpoint_state.restore(run, load_checkpoint(run.folder / "checkpoints" / "step-00000001"))
    assert all(value.equal(weights[name]) for name, value in run.bare.state_dict().items())
    for weight, kinds in run.step.optimizer.state.items():
        assert kinds.keys() == state[weight].keys() == {"step", "exp_avg"}
        assert all(value.equal(state[weight][kind]) for kind, value in kinds.items())
    assert (run.step_number, run.best, run.reads, run.log_rows) == (1, best, reads, 1)
    set_random_state(run.pending_random_state, run.world.device)
    assert torch.rand(3).equal(drawn)


def test_a_failing_save_is_a_line_and_training_goes_on(run, full_disk):
    root = run.folder / "checkpoints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_state, "save_checkpoint", save_checkpoint)
        checkpoint_state.save(run)
    save_steps(run, 2, 3)
    start = f"cannot write {root}: No space left on device (free some space there)."
    end = "The newest good checkpoint is step-00000001. Training continues"
    assert run.said == [
        f"warning: step 2 is not saved: {start} {end}",
        f"warning: step 3 is not saved: {start} 2 saves in a row have failed. {end}",
    ]
    full_disk()
    save_steps(run, 4)
    assert run.failed_saves == 0
    assert sorted(os.listdir(root)) == ["step-00000001", "step-00000004"]


def test_three_in_a_row_stop_the_run(run, full_disk, says):
    save_steps(run, 1, 2)
    with says(
        RunError,
        f"step 3 is not saved: cannot write {run.folder}/checkpoints: No space left on device (free some space there). "
        f"3 saves in a row have failed. There is no good checkpoint. --resume continues from the last good checkpoint",
    ) as caught:
        save_steps(run, 3)
    assert caught.value.code == 1
    assert len(run.said) == 2


def test_three_that_are_not_in_a_row_do_not(run, full_disk, monkeypatch):
    save_steps(run, 1, 2)
    full_disk()
    save_steps(run, 3)
    monkeypatch.setattr(checkpoint_state, "save_checkpoint", lambda *_: (_ for _ in ()).throw(CheckpointError("no")))
    save_steps(run, 4, 5)
    assert len(run.said) == 4


def test_the_last_save_of_a_run_must_succeed(run, full_disk):
    with pytest.raises(RunError, match=r"^step 1 is not saved: cannot write .*There is no good checkpoint"):
        checkpoint_state.save(run, last=True)
    assert run.said == []


def test_a_last_save_of_what_is_saved_already_needs_no_space(run, monkeypatch):
    checkpoint_state.save(run)
    monkeypatch.setattr(os, "mkdir", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    checkpoint_state.save(run, last=True)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EDQUOT])
def test_what_the_system_says_is_said_with_a_remedy(number, run, monkeypatch):
    monkeypatch.setattr(os, "mkdir", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    checkpoint_state.save(run)
    remedy = "free some space there" if number == errno.EDQUOT else "check the disk"
    assert run.said == [
        f"warning: step 1 is not saved: cannot write {run.folder}/checkpoints/step-00000001: {os.strerror(number)} "
        f"({remedy}). There is no good checkpoint. Training continues"
    ]


def test_a_removed_folder_of_checkpoints_is_made_anew(run):
    checkpoint_state.save(run)
    shutil.rmtree(run.folder / "checkpoints")
    save_steps(run, 2)
    assert os.listdir(run.folder / "checkpoints") == ["step-00000002"]


def test_a_checkpoint_of_other_data_or_another_model_is_refused(run):
    checkpoint_state.save(run)
    saved = load_checkpoint(run.folder / "checkpoints" / "step-00000001")
    for tensors, state, message in (
        ({}, {"training_images": 41}, "images had 41 training images when .* was trained, now 40"),
        ({"model": {"weight": torch.zeros(2, 4)}}, {}, r"of step 1 in .*/run does not belong to this run: .*mismatch"),
        ({"optimizer": {"other|step": torch.tensor(1.0)}}, {}, "does not belong to this run: 'other'"),
    ):
        with pytest.raises(RunError, match=message):
            checkpoint_state.restore(run, Checkpoint(saved.tensors | tensors, saved.state | state, {}))
    del saved.tensors["model"]
    with pytest.raises(RunError, match="does not belong to this run: 'model'"):
        checkpoint_state.restore(run, saved)


def test_the_checkpoint_to_go_on_from_is_the_newest_whole_one(run):
    assert checkpoint_state.choose_checkpoint(run.folder, run.world) == (None, [])
    save_steps(run, 1, 2)
    root = run.folder / "checkpoints"
    (root / "step-00000002" / "state.json").unlink()
    assert checkpoint_state.choose_checkpoint(run.folder, run.world) == (
        root / "step-00000001",
        [
            f"left out a checkpoint: {root}/step-00000002/state.json is damaged: it is missing; "
            f"set aside as damaged-step-00000002"
        ],
    )
    shutil.rmtree(root)
    root.write_text("")
    with pytest.raises(RunError, match=f"^cannot list {root}: Not a directory$"):
        checkpoint_state.choose_checkpoint(run.folder, run.world)


def test_the_state_says_how_far_the_run_is(run):
    run.step_number = 7
    checkpoint_state.save(run)
    state = json.loads((run.folder / "checkpoints" / "step-00000007" / "state.json").read_text())
    assert (state["step"], state["steps_per_epoch"], state["log_rows"]) == (7, 5, 0)
