"""A checkpoint is whole or not there: what is written, in which order, and what is read."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from transmix.runs import checkpoint as module
from transmix.runs.atomic_write import sync, write_file
from transmix.runs.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    settle_checkpoints,
    write_manifest,
)


def test_what_was_saved_is_loaded_bit_for_bit(checkpoint, tmp_path):
    saved = checkpoint(3)
    folder = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(folder)
    assert folder.name == "step-00000003"
    assert loaded.state == saved.state
    assert loaded.metadata == saved.metadata
    assert loaded.tensors.keys() == saved.tensors.keys()
    for stem, tensors in saved.tensors.items():
        assert all(loaded.tensors[stem][name].equal(tensor) for name, tensor in tensors.items())


def test_the_manifest_names_every_other_file(checkpoint, tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {path.name for path in folder.iterdir()} - {"manifest.json"}


def test_a_file_that_the_manifest_does_not_name_is_not_part_of_the_checkpoint(root):
    folder = root / "step-00000002"
    shutil.copy(folder / "random-0.safetensors", folder / "random-7.safetensors")
    (folder / "notes.txt").write_text("the good one")
    assert set(load_checkpoint(folder).tensors) == {"model", "optimizer", "random-0"}


def test_steps_of_nine_digits_are_newer_than_those_of_eight(checkpoint, root):
    newest = save_checkpoint(root, checkpoint(100_000_000))
    (root / "step-x").mkdir()
    (root / "step-12").mkdir()
    assert [path.name for path in list_checkpoints(root)] == ["step-00000001", "step-00000002", "step-100000000"]
    assert newest_checkpoint(root) == (newest, [])


def test_saving_a_step_again_leaves_one_of_the_same_state_and_replaces_one_of_another(checkpoint, root):
    before = (root / "step-00000002" / "model.safetensors").stat().st_ino
    save_checkpoint(root, checkpoint(2))
    assert (root / "step-00000002" / "model.safetensors").stat().st_ino == before
    save_checkpoint(root, checkpoint(2, best={"step": 2}))
    assert load_checkpoint(root / "step-00000002").state["best"] == {"step": 2}
    assert sorted(os.listdir(root)) == ["step-00000001", "step-00000002"]


def test_checkpoints_are_not_written_where_the_run_folder_is_gone(checkpoint, tmp_path, says):
    with says(
        CheckpointError,
        f"cannot write {tmp_path}/run/checkpoints/step-00000001: No such file or directory "
        f"(if the folder was moved or removed, put it back)",
    ):
        save_checkpoint(tmp_path / "run" / "checkpoints", checkpoint(1))
    assert not (tmp_path / "run").exists()


def test_a_limit_of_the_system_on_file_sizes_fails_the_save_and_leaves_the_older_checkpoint(checkpoint, root):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(root, checkpoint(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == f"cannot write {root}/step-00000003: File too large"
    assert sorted(os.listdir(root)) == ["step-00000001", "step-00000002"]


# A power cut after every operation of a save, on a disk that lost all that was not synced.


def temporary_folder(root, saved):
    folder = root / f".step-{saved.state['step']:08d}.1.tmp"
    folder.mkdir()
    return folder


def manifest_first(root, saved):
    temporary = temporary_folder(root, saved)
    write_file(temporary / "manifest.json", b"{}")
    module._write_files(temporary, saved)
    sync(temporary)
    module._put_in_place(temporary, root / "step-00000003")
    return root / "step-00000003"


def rename_before_fsync(root, saved):
    temporary, folder = temporary_folder(root, saved), root / "step-00000003"
    with pytest.MonkeyPatch.context() as patch:
        for where in ("transmix.runs.checkpoint", "transmix.runs.atomic_write"):
            patch.setattr(f"{where}.sync", lambda path: None)
        patch.setattr("transmix.runs.checkpoint.write_file", lambda path, content: Path.write_bytes(path, content))
        module._write_files(temporary, saved)
        write_manifest(temporary)
    temporary.rename(folder)
    for path in (*folder.iterdir(), folder, root):
        sync(path)
    return folder


def no_fsync_of_the_folders(root, saved):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "sync", lambda path: None if path.is_dir() else sync(path))
        return save_checkpoint(root, saved)


def no_temporary_name(root, saved):
    folder = root / "step-00000003"
    folder.mkdir()
    module._write_files(folder, saved)
    write_manifest(folder)
    sync(folder)
    sync(root)
    return folder


class Disk:
    """What would be left after a power cut: file contents as last synced, and names as they are or as last synced."""

    def __init__(self, root):
        self.root, self.contents, self.names = root, {}, {}
        for path in [root, *root.rglob("*")]:
            self.sync(path)

    def sync(self, path):
        if path.is_dir():
            self.names[path.stat().st_ino] = {p.name: (p.stat().st_ino, p.is_dir()) for p in path.iterdir()}
        elif path.exists():
            self.contents[path.stat().st_ino] = path.read_bytes()

    def after_a_cut(self, target, names_survive):
        names = dict(self.names)
        if names_survive:
            for path in [self.root, *(p for p in self.root.rglob("*") if p.is_dir())]:
                names[path.stat().st_ino] = {p.name: (p.stat().st_ino, p.is_dir()) for p in path.iterdir()}
        self._rebuild(target, self.root.stat().st_ino, names)

    def _rebuild(self, target, number, names):
        target.mkdir()
        for name, (child, is_folder) in names.get(number, {}).items():
            if is_folder:
                self._rebuild(target / name, child, names)
            else:
                (target / name).write_bytes(self.contents.get(child, b""))


def check_power_cuts(saver, checkpoint, root, disk, is_of_step):
    """Return nothing if at every moment what is seen is whole, and the newest is the last that a save returned."""
    cuts, model = 0, Disk(root)
    elsewhere = root.parent / "cuts"
    elsewhere.mkdir()
    pending = []

    def look(expected):
        nonlocal cuts
        for survive in (True, False):
            cuts += 1
            target = elsewhere / str(cuts)
            with pytest.MonkeyPatch.context() as patch:
                for module, names in originals.items():
                    for name, value in names.items():
                        patch.setattr(module, name, value)
                model.after_a_cut(target, survive)
                found, said = settle_checkpoints(target)
            assert not said, "everything that is seen is whole"
            assert found is not None
            assert any(is_of_step(found, step) for step in expected)
            assert int(found.name[5:]) in expected

    def before(kind, path, *rest):
        while pending:
            model.sync(pending.pop())
        look((2, 3))
        if kind == "fsync":
            pending.append(path)
        if kind in ("open", "mkdir"):  # numbers are used again
            pending.clear()

    originals = {
        os: {name: getattr(os, name) for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")},
        Path: {"open": Path.open},
        module: {"save_file": module.save_file},
        shutil: {"rmtree": shutil.rmtree},
    }
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch, root, before)
        saver(root, checkpoint(3))
    while pending:
        model.sync(pending.pop())
    look((3,))
    return cuts


def test_whenever_the_power_is_cut_what_is_seen_is_whole_and_a_returned_save_stays(checkpoint, root, disk, is_of_step):
    assert check_power_cuts(save_checkpoint, checkpoint, root, disk, is_of_step) > 30


@pytest.mark.parametrize("wrong", [manifest_first, rename_before_fsync, no_fsync_of_the_folders, no_temporary_name])
def test_after_a_power_cut_wrong_savers_leave_less_than_they_promised(wrong, checkpoint, root, disk, is_of_step):
    with pytest.raises(AssertionError):
        check_power_cuts(wrong, checkpoint, root, disk, is_of_step)
