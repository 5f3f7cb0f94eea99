"""Whatever operation of a save fails, or is the last of a killed process, an older checkpoint loads afterwards."""

import errno
import os
import shutil

import pytest
from safetensors import SafetensorError

from transmix.runs import checkpoint as module
from transmix.runs.checkpoint import (
    CheckpointError,
    list_checkpoints,
    remove_old_checkpoints,
    save_checkpoint,
    settle_checkpoints,
    verify_checkpoint,
)
from transmix.training import checkpoint_state


def an_older_one(root, checkpoint):
    """Steps 1 and 2 are there, and step 3 is saved."""


def a_damaged_one_in_its_place(root, checkpoint):
    (save_checkpoint(root, checkpoint(3)) / "model.safetensors").write_bytes(b"")


def another_state_in_its_place(root, checkpoint):
    save_checkpoint(root, checkpoint(3, best={"step": 1}))


def what_a_killed_save_left(root, checkpoint):
    left = root / f".step-00000003.{os.getpid()}.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")


STARTS = [an_older_one, a_damaged_one_in_its_place, another_state_in_its_place, what_a_killed_save_left]

WAYS = {
    "ENOSPC": (errno.ENOSPC, False),
    "EIO": (errno.EIO, False),
    "EACCES": (errno.EACCES, False),
    "EROFS": (errno.EROFS, False),
    "ENOSPC from then on": (errno.ENOSPC, True),
    "killed": (None, True),
}


def fail_at(number, code, lasting, killed):
    """Return what makes the n-th operation fail, and the later ones too if lasting; it counts them all."""
    count = 0

    def before(kind, path, *rest):
        nonlocal count
        count += 1
        if count == number or (lasting and count > number > 0):
            if code is None:
                raise killed
            if kind == "write" and path.suffix == ".safetensors":  # as safetensors says it
                raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")
            raise OSError(code, os.strerror(code), str(path))

    return before, lambda: count


def save_and_clear(root, checkpoint):
    save_checkpoint(root, checkpoint)
    remove_old_checkpoints(root, keep=1, best_step=None)


def check_faults(save, way, start, checkpoint, root, disk, is_of_step):
    """Return how many operations were made to fail."""
    code, lasting = WAYS[way]
    start(root, checkpoint)
    number = 0
    while True:
        number += 1
        tried = root.parent / str(number)
        shutil.copytree(root, tried)
        before, count = fail_at(number, code, lasting, disk.Killed)
        complaint = saved = None
        with pytest.MonkeyPatch.context() as patch:
            disk.watch(patch, tried, before)
            try:
                save(tried, checkpoint(3))
                saved = True
            except CheckpointError as error:
                complaint = str(error)
            except disk.Killed:
                pass
        if complaint:
            assert complaint.startswith(f"cannot write {tried}/step-00000003: ")
            in_the_way = start is what_a_killed_save_left and "File exists" in complaint
            assert os.strerror(code) in complaint or in_the_way
        if count() < number:
            assert saved
            return number - 1
        for folder in list_checkpoints(tried):  # nothing that looks whole is not
            if start is not a_damaged_one_in_its_place or folder.name != "step-00000003":
                verify_checkpoint(folder)
        found, _ = settle_checkpoints(tried)
        assert found is not None, "a checkpoint is left"
        assert is_of_step(found, int(found.name[5:]))
        assert found.name == "step-00000003" or not saved, "a save that returned is there"
        if start is another_state_in_its_place:
            assert found.name == "step-00000003", "either state of the step is left"
        assert not list(tried.glob(".*")), "nothing is left over"
        save(tried, checkpoint(4))
        assert [path.name for path in list_checkpoints(tried)] == ["step-00000004"]
        if start is a_damaged_one_in_its_place:
            assert (tried / "damaged-step-00000003" / "model.safetensors").read_bytes() == b""
        shutil.rmtree(tried)


@pytest.mark.parametrize(
    ("start", "way"),
    [(start, way) for start in STARTS for way in WAYS if start is an_older_one or way[-2:] in ("IO", "on", "ed")],
)
def test_whatever_operation_fails_a_checkpoint_is_left_and_the_next_save_works(
    start, way, checkpoint, root, disk, is_of_step
):
    assert check_faults(save_and_clear, way, start, checkpoint, root, disk, is_of_step) >= 25


def removes_first(root, checkpoint):
    remove_old_checkpoints(root, keep=0, best_step=None)
    for folder in list_checkpoints(root):
        shutil.rmtree(folder)
    save_checkpoint(root, checkpoint)


def writes_in_place(root, checkpoint):
    folder = root / f"step-{checkpoint.state['step']:08d}"
    try:
        folder.mkdir()
        module._write_files(folder, checkpoint)
        module.write_manifest(folder)
    except module.WRITE_ERRORS as error:
        raise CheckpointError(f"cannot write {folder}: {module.why(error)}") from error
    remove_old_checkpoints(root, keep=1, best_step=None)


def deletes_under_its_name(root, checkpoint):
    save_checkpoint(root, checkpoint)
    for folder in list_checkpoints(root)[:-1]:
        for path in folder.iterdir():
            os.unlink(path)
        os.rmdir(folder)


@pytest.mark.parametrize("wrong", [removes_first, writes_in_place, deletes_under_its_name])
def test_savers_that_do_it_in_another_way_are_caught(wrong, checkpoint, root, disk, is_of_step):
    with pytest.raises((AssertionError, CheckpointError)):
        check_faults(wrong, "killed", an_older_one, checkpoint, root, disk, is_of_step)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_saves_never_sees_an_error_of_the_disk(way, run, disk):
    """At every operation: the first failure is a line, and the save after it succeeds."""
    code, lasting = WAYS[way]
    checkpoint_state.save(run)
    good, number = run.folder, 0
    while True:
        number += 1
        run.folder = good.parent / str(number)
        shutil.copytree(good, run.folder)
        run.log.path = run.folder / "metrics.jsonl"
        run.step_number, run.said[:] = 2, []
        before, count = fail_at(number, code, lasting, disk.Killed)
        stopped = ""
        with pytest.MonkeyPatch.context() as patch:
            disk.watch(patch, run.folder, before)
            try:
                checkpoint_state.save(run)
            except disk.Killed:
                stopped = "killed"
            except checkpoint_state.RunError as error:
                stopped = str(error)
        if count() < number:
            break
        if stopped and stopped != "killed":  # the log could not be synced
            assert stopped.startswith(f"cannot write {run.folder}/metrics.jsonl: {os.strerror(code)}")
        saved = (run.folder / "checkpoints" / "step-00000002").exists()
        assert run.failed_saves == len(run.said)
        assert saved or stopped or run.said, "what is not saved is said"
        for line in run.said:
            assert line.startswith(
                f"warning: step 2 is not saved: cannot write {run.folder}/checkpoints/step-00000002: "
            )
            newest = "step-00000002" if saved else "step-00000001"  # renamed, and then not synced
            assert line.endswith(f". The newest good checkpoint is {newest}. Training continues")
        run.step_number = 3
        checkpoint_state.save(run, last=True)
        assert run.failed_saves == 0
        names = sorted(os.listdir(run.folder / "checkpoints"))
        assert names == (["step-00000002"] if saved else ["step-00000001"]) + ["step-00000003"]
        shutil.rmtree(run.folder)
    assert number > 15
