"""Checkpoint retention: keep the newest and the best, rename damaged ones, and never leave one half deleted.

Only the main process calls these.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from transmix.runs.atomic_write import sync, why
from transmix.runs.checkpoint import is_whole, list_checkpoints, set_aside, verify_checkpoint
from transmix.runs.error import CheckpointError


def settle_checkpoints(root: Path) -> tuple[Path | None, list[str]]:
    """Rename damaged checkpoints and clean up after interrupted saves, before a run continues.

    Returns:
        The newest valid checkpoint, and messages about the others.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    _clear_up(root)
    newest, said = None, []
    for folder in list_checkpoints(root):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            try:
                fate = f"set aside as {set_aside(folder).name}"
            except OSError as refusal:
                fate = f"it cannot be set aside: {why(refusal)}"
            said.append(f"left out a checkpoint: {error}; {fate}")
        else:
            newest = folder
    if said and newest is None:
        said.append("no whole checkpoint is left; the run starts from its first step")
    return newest, said


def remove_old_checkpoints(root: Path, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the `keep` newest and the best one, and the files of interrupted saves.

    The last valid checkpoint is never removed. A failed removal is tried again next time.
    """
    with suppress(CheckpointError):
        _clear_up(root)
        folders = list_checkpoints(root)
        best = None if best_step is None else f"step-{best_step:08d}"
        old = [folder for folder in reversed(folders[:-keep]) if folder.name != best]
        stay = [folder for folder in reversed(folders) if folder not in old]
        if old and not any(map(is_whole, stay)):
            # The newest whole one of the old is the last there is.
            old = old[next((at for at, folder in enumerate(old) if is_whole(folder)), len(old)) + 1 :]
        for folder in old:
            with suppress(OSError):
                _remove(folder)


def _remove(folder: Path) -> None:
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.rename(doomed)
    sync(folder.parent)  # else a power cut may take files and leave the name
    _delete(doomed)


def _clear_up(root: Path) -> None:
    """Remove files of interrupted saves and removals, and restore a checkpoint whose replacement was not completed."""
    with suppress(OSError):
        for path in list(root.glob(".step-*")):
            folder = root / path.name[1:].removesuffix(".replaced")
            with suppress(OSError):
                if path.suffix == ".replaced" and not os.path.lexists(folder):
                    path.rename(folder)
                elif path.suffix in (".replaced", ".tmp"):
                    _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
