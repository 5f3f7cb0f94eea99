"""Small checkpoints, ways to damage a file, and a disk that is watched and fails when it is told to."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from transmix.distributed import World
from transmix.runs import checkpoint as checkpoint_module
from transmix.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


class Killed(BaseException):
    """The process is no more: unlike an error, nobody handles it."""


class WatchedFile:
    """A file that tells of each write before it is done, and does half of one that fails."""

    def __init__(self, file, path, before):
        self.file, self.path, self.before = file, path, before

    def write(self, content):
        try:
            self.before("write", self.path)
        except BaseException:
            self.file.write(content[: len(content) // 2])
            raise
        return self.file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def watch_disk(patch, root, before):
    """Call before(kind, path) ahead of everything that changes the disk; what it raises, the operation raises."""

    def path_of(descriptor):
        with suppress(OSError):  # quick, and known to Linux alone
            return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        number = os.fstat(descriptor).st_ino
        return next(p for p in [root.parent, root, *root.rglob("*")] if p.lstat().st_ino == number)

    def wrap(name):
        real = getattr(os, name)

        def call(path, *rest, **more):
            before(name, Path(path), *(Path(p) for p in rest[:1] if isinstance(p, str | Path)))
            return real(path, *rest, **more)

        patch.setattr(os, name, call)

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        wrap(name)
    patch.setattr(os, "fsync", lambda descriptor: before("fsync", path_of(descriptor)))
    real_open, real_save, real_rmtree = Path.open, checkpoint_module.save_file, shutil.rmtree

    def open_file(path, mode="r", *rest, **more):
        if "w" not in mode and "a" not in mode:
            return real_open(path, mode, *rest, **more)
        before("open", path)
        return WatchedFile(real_open(path, mode, *rest, **more), path, before)

    def save_file(tensors, path, metadata=None):
        real_save(tensors, path, metadata)
        try:
            before("write", path)
        except BaseException:
            os.truncate(path, path.stat().st_size // 2)
            raise

    def rmtree(path, ignore_errors=False):
        if os.path.lexists(path):
            try:
                before("rmtree", Path(path))
            except OSError:
                if not ignore_errors:
                    raise
            else:
                real_rmtree(path, ignore_errors=ignore_errors)

    patch.setattr(Path, "open", open_file)
    patch.setattr(checkpoint_module, "save_file", save_file)
    patch.setattr(shutil, "rmtree", rmtree)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Leave fsync out: a test cannot see what it does, only that it was called."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_checkpoint(step, best=None):
    tensors = {
        "model": {"weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)},
        "optimizer": {"weight|exp_avg": torch.randn(3, 2).T, "weight|step": torch.tensor(1.0)},
        "random-0": {"cpu": torch.get_rng_state()},
    }
    return Checkpoint(tensors, {"step": step, "best": best}, {"transmix": '{"model": "x"}'})


@pytest.fixture(scope="session")
def checkpoint():
    """Make a checkpoint of a step that has every kind of file."""
    return make_checkpoint


@pytest.fixture(scope="session")
def disk():
    """Give `watch_disk`, and the exception that stands for kill -9."""
    return SimpleNamespace(watch=watch_disk, Killed=Killed)


@pytest.fixture(scope="session")
def is_of_step():
    """Tell whether a checkpoint loads and holds what `checkpoint` makes of a step."""
    return lambda folder, step: load_checkpoint(folder).tensors["model"]["weight"].eq(step).all()


@pytest.fixture
def root(tmp_path):
    """A folder of checkpoints with those of steps 1 and 2."""
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        save_checkpoint(folder, make_checkpoint(step))
    return folder


FILES = ("model.safetensors", "optimizer.safetensors", "random-0.safetensors", "state.json", "manifest.json")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def make_a_folder(path):
    path.unlink()
    path.mkdir()


def make_a_link(path):
    elsewhere = path.parent.parent / f"moved-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def make_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit flipped": flip_a_bit,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "missing": Path.unlink,
    "a folder": make_a_folder,
    "a link": make_a_link,
    "a pipe": make_a_pipe,
}


@pytest.fixture(params=DAMAGES)
def damage(request):
    """Give each way to damage a file."""
    return DAMAGES[request.param]


@pytest.fixture(params=FILES)
def file_name(request):
    """Name each file of a checkpoint."""
    return request.param


@pytest.fixture
def run(tmp_path, small_recipe):
    """What a save takes of a run that trains: all but the training."""
    from transmix.runs.log import RunLog

    bare = torch.nn.Linear(3, 2)
    # A real optimizer would take seconds to import, and no more than this of it is saved.
    optimizer = SimpleNamespace(
        state={weight: {"step": torch.tensor(1.0), "exp_avg": torch.randn_like(weight)} for weight in bare.parameters()}
    )
    folder, said = tmp_path / "run", []
    folder.mkdir()
    return SimpleNamespace(
        bare=bare,
        average=None,
        step=SimpleNamespace(optimizer=optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False)),
        step_number=1,
        order=SimpleNamespace(steps_per_epoch=5),
        data=SimpleNamespace(train=range(40), classes=("dark", "light"), name="images", grey=None),
        best=None,
        stale=0,
        reads=[],
        recipe=small_recipe("digits", keep_checkpoints=2),
        world=World(0, 1, 1, torch.device("cpu")),
        log=RunLog(folder, 0, False),
        folder=folder,
        say=said.append,
        said=said,
        failed_saves=0,
        log_rows=None,
        pending_random_state=None,
    )
