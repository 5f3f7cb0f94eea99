"""What a resumed run may change, when it is finished, and a run folder that cannot be written."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from transmix.data.dataset import ImageData, Split
from transmix.runs import folder as run_folder
from transmix.runs.atomic_write import sync
from transmix.runs.checkpoint import Checkpoint, save_checkpoint
from transmix.runs.error import RunError


def two_classes():
    split = Split(np.zeros((2, 4, 6, 3), dtype=np.uint8), np.arange(2))
    return ImageData("two", ("a", "b"), split, split)


@pytest.fixture
def trained(run, small_recipe):
    """A run of 4 epochs of 5 steps that has a checkpoint of step 12."""
    run_folder.write_start(run.folder, small_recipe("digits", epochs=4), two_classes(), run.world)
    (run.folder / "checkpoints").mkdir()
    state = {"step": 12, "steps_per_epoch": 5, "best": None}
    save_checkpoint(run.folder / "checkpoints", Checkpoint({"model": {"w": torch.zeros(1)}}, state, {}))
    return run.folder


def test_settings_that_do_not_change_what_is_trained_may_change_and_are_given_back(trained, small_recipe):
    recipe = trained / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("data: digits", "data: here"))
    same = small_recipe("here", epochs=4)
    assert run_folder.check_run(trained, same, resume=True) == {}
    changed = small_recipe("elsewhere", epochs=4, workers=2, keep_checkpoints=5)
    assert run_folder.check_run(trained, changed, resume=True) == {
        "data": ("here", "elsewhere"),
        "workers": (0, 2),
        "keep_checkpoints": (2, 5),
    }
    assert run_folder.schedule_notice(run_folder.check_run(trained, changed, resume=True)) is None


@pytest.mark.parametrize("other", ["digits48", "here"])
def test_a_data_set_without_files_cannot_have_moved(trained, small_recipe, other):
    with pytest.raises(RunError, match=f"trained with other settings: data: digits -> {other}. Resume with the same"):
        run_folder.check_run(trained, small_recipe(other, epochs=4), resume=True)


def test_others_are_refused_with_all_that_differ(trained, small_recipe, says):
    with says(
        RunError,
        f"{trained} was trained with other settings: lr: 0.001 -> 0.1; seed: 0 -> 3. Resume with the same ones",
    ) as caught:
        run_folder.check_run(trained, small_recipe("digits", epochs=4, lr=0.1, seed=3, workers=2), resume=True)
    assert caught.value.code == 2


@pytest.mark.parametrize(("epochs", "which"), [(6, "longer"), (3, "shorter")])
def test_epochs_may_grow_and_shrink_as_far_as_the_run_has_not_come(epochs, which, trained, small_recipe):
    changed = run_folder.check_run(trained, small_recipe("digits", epochs=epochs), resume=True)
    assert changed == {"epochs": (4, epochs)}
    assert run_folder.schedule_notice(changed) == (
        f"epochs: 4 -> {epochs}; from here on the learning rate follows the {which} schedule"
    )


def test_epochs_may_not_fall_below_what_was_done(trained, small_recipe, says):
    with says(
        RunError,
        f"{trained} has trained 3 epochs already (step 12), more than the 2 asked for; resume with at least as many",
    ):
        run_folder.check_run(trained, small_recipe("digits", epochs=2), resume=True)
    for path in (trained / "checkpoints").rglob("*"):
        path.unlink() if path.is_file() else None
    assert run_folder.check_run(trained, small_recipe("digits", epochs=2), resume=True) == {"epochs": (4, 2)}


def test_a_finished_run_is_not_finished_any_more_when_more_epochs_are_asked_for(trained, run, small_recipe):
    summary = trained / "summary.json"
    summary.write_text(json.dumps({"step": 20, "finished": True}))
    assert run_folder.is_finished(trained, None)
    assert not run_folder.is_finished(trained, None, {"epochs": (4, 6)})
    run_folder.write_start(trained, small_recipe("digits", epochs=6), two_classes(), run.world)
    assert not summary.exists()  # else a crash now would leave six epochs that look finished after four
    assert not run_folder.is_finished(trained, None)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", "{}", '{"finished": true}'])
def test_a_summary_that_is_none_does_not_finish_a_run(text, trained):
    (trained / "summary.json").write_text(text)
    assert not run_folder.is_finished(trained, 1)


def test_a_run_stopped_where_it_was_told_to_is_finished_until_it_is_told_more(trained):
    (trained / "summary.json").write_text(json.dumps({"step": 12, "finished": False}))
    assert [run_folder.is_finished(trained, steps) for steps in (None, 10, 12, 15)] == [False, True, True, False]


def test_a_folder_that_is_no_run_is_refused(tmp_path, small_recipe, says):
    recipe, folder = small_recipe("digits"), tmp_path / "run"
    assert run_folder.check_run(folder, recipe, resume=False) == {}
    folder.mkdir()
    assert run_folder.check_run(folder, recipe, resume=False) == {}
    (folder / "thesis.txt").write_text("ten years of work")
    with says(RunError, f"{folder} holds files but no run (recipe.yaml); give another --out"):
        run_folder.check_run(folder, recipe, resume=True)
    with says(RunError, f"{folder}/thesis.txt exists already; give --resume to continue that run, or another --out"):
        run_folder.check_run(folder / "thesis.txt", recipe, resume=True)


def refuse(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, small_recipe, monkeypatch, says):
    monkeypatch.setattr("pathlib.Path.exists", refuse(errno.EACCES))
    with says(RunError, f"cannot open {tmp_path}: Permission denied (check who may write there)"):
        run_folder.check_run(tmp_path, small_recipe("digits"), resume=True)


def test_a_folder_that_cannot_be_written_stops_with_one_line(tmp_path, run, small_recipe, monkeypatch, says):
    folder = tmp_path / "new"
    monkeypatch.setattr(os, "mkdir", refuse(errno.EROFS))
    with pytest.raises(RunError) as caught:
        run_folder.write_start(folder, small_recipe("digits"), two_classes(), run.world)
    message = "Read-only file system (check the disk); --resume continues from the last checkpoint"
    assert str(caught.value) == f"cannot write {folder}: {message}"
    assert caught.value.code == 1
    with says(RunError, f"cannot write {tmp_path}/examples/epoch-0003.safetensors: {message}"):
        run_folder.write_examples(tmp_path, 2, {"images": torch.zeros(2)})


def test_the_end_of_a_run_is_written_whole_with_the_summary_last(trained, disk):
    done = []
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch, trained, lambda kind, *paths: done.append((kind, paths[-1].name)))
        run_folder.write_end(trained, {"step": 20}, torch.tensor([[3, 1], [0, 4]]), ("a", 'b, "c"'))
    assert [what for what in done if what[0] == "replace"] == [
        ("replace", "confusion.csv"),
        ("replace", "model.safetensors"),
        ("replace", "summary.json"),
    ]
    assert (trained / "confusion.csv").read_text().splitlines() == [
        'true \\ predicted,a,"b, ""c"""',
        "a,3,1",
        '"b, ""c""",0,4',
    ]
    assert json.loads((trained / "summary.json").read_text()) == {"step": 20}
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch, trained, refuse(errno.ENOSPC))
        with pytest.raises(RunError, match=f"^cannot write {trained}: No space left on device"):
            run_folder.write_end(trained, {"step": 21}, torch.tensor([[3, 1], [0, 4]]), ("a", "b"))
    assert json.loads((trained / "summary.json").read_text()) == {"step": 20}


def test_a_file_system_that_cannot_sync_folders_is_used_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)
