"""Checkpoints: one folder per optimizer step, either complete or absent.

    step-00000123/
        model.safetensors, ema.safetensors, optimizer.safetensors, random-0.safetensors (one per process)
        state.json      everything that is not a tensor
        manifest.json   size and sha256 of the others, written last

Written under a temporary name in the same folder, fsynced, renamed. Nothing is ever unpickled. A checkpoint may come
from
an untrusted source, so the manifest is validated: paths out of the folder, links, pipes and folders in place of files
are rejected before a file is opened. Files not in the manifest are not part of the checkpoint. Other names:

    .step-00000123.456.tmp      being written or removed by process 456
    .step-00000123.replaced     the former checkpoint of this step, until the new one is in place
    damaged-step-00000123       a checkpoint that failed verification; renamed, never removed
"""

import hashlib
import io
import json
import os
import re
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from transmix.distributed import cut_like
from transmix.runs.atomic_write import WRITE_ERRORS, sync, why, write_file
from transmix.runs.error import CheckpointError

_NAME = re.compile(r"step-([0-9]{8,})")
_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 20  # bytes
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        tensors: file stem ("model", "ema", "optimizer", "random-0") -> name -> tensor.
        state: everything else, as JSON values; always has "step".
        metadata: texts for the metadata of the model and ema files, so that each file can be used alone.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    metadata: dict[str, str]


def save_checkpoint(root: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under `root`, a folder of the run, and return its folder.

    A complete checkpoint of the same step and state is kept; one with another state is replaced.

    Raises:
        CheckpointError: it could not be written; the previous checkpoint is unchanged.
    """
    folder = root / f"step-{checkpoint.state['step']:08d}"
    temporary = root / f".{folder.name}.{os.getpid()}.tmp"
    try:
        if is_whole(folder) and read_state(folder) == json.loads(json.dumps(checkpoint.state)):
            return folder
        if not root.is_dir():
            root.mkdir()  # not what is above: a run folder that is gone is not made anew
            sync(root.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(temporary, checkpoint)
        write_manifest(temporary)  # last: a folder with a manifest has all that it names
        sync(temporary)
        _put_in_place(temporary, folder)
    except WRITE_ERRORS as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot write {folder}: {why(error)}") from error
    return folder


def newest_checkpoint(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest valid checkpoint, and the problems of newer ones."""
    problems = []
    for folder in reversed(list_checkpoints(root)):
        if not (problem := problem_of(folder)):
            return folder, problems
        problems.append(problem)
    return None, problems


def list_checkpoints(root: Path) -> list[Path]:
    """Return all folders with a checkpoint's name, valid or not, sorted by step.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot list {root}: {why(error)}") from error
    return [root / name for name in sorted(filter(_NAME.fullmatch, names), key=lambda name: int(name[5:]))]


def verify_checkpoint(folder: Path) -> list[str]:
    """Check that every file exists with the size and checksum in the manifest.

    Returns:
        The names of its files; other files in the folder are not part of the checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged; the message names it.
    """
    manifest = _read_manifest(folder)
    for name, expected in manifest.items():
        path = folder / name
        with _open_plain(path) as file:
            try:
                found = _fingerprint(file)
            except OSError as error:
                raise CheckpointError(f"{path} is damaged: {why(error)}") from error
        if found["size"] != expected["size"]:
            raise CheckpointError(f"{path} is damaged: {found['size']} bytes, {expected['size']} were written")
        if found["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: its content is not what was written")
    step = read_state(folder).get("step") if "state.json" in manifest else None
    if type(step) is not int or folder.name != f"step-{step:08d}":
        raise CheckpointError(f"{folder} is damaged: its state.json is not of this step")
    return list(manifest)


def problem_of(folder: Path) -> str:
    """Return what is wrong with a checkpoint; empty where it verifies."""
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        return str(error)
    return ""


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is valid."""
    return not problem_of(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state of a valid checkpoint, without its tensors.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {folder / 'state.json'}: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"cannot read {folder / 'state.json'}: not a mapping")
    return state


def load_checkpoint(folder: Path) -> Checkpoint:
    """Verify a checkpoint and read its files; all tensors are on the CPU.

    Raises:
        CheckpointError: a file that is damaged or cannot be read.
    """
    tensors, metadata = {}, {}
    for name in verify_checkpoint(folder):
        if name.endswith(".safetensors"):
            tensors[name.removesuffix(".safetensors")], found = read_tensors(folder / name)
            metadata |= found
    return Checkpoint(tensors, read_state(folder), metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: no such file, or not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kinds, none of them public in all versions
        raise CheckpointError(f"cannot read {path}: {error}") from error


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint to a free name outside the checkpoint pattern, and return its new path."""
    names = (f"damaged-{folder.name}" + (f"-{number}" if number > 1 else "") for number in count(1))
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    return folder.rename(aside)


def settle_checkpoints(root: Path) -> tuple[Path | None, list[str]]:
    """Set damaged checkpoints aside and clear up after broken saves, before a run goes on; in the main process alone.

    Returns:
        The newest valid checkpoint, and messages about the others.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    _clear_up(root)
    newest, said = None, []
    for folder in list_checkpoints(root):
        if not (problem := problem_of(folder)):
            newest = folder
            continue
        try:
            fate = f"set aside as {set_aside(folder).name}"
        except OSError as refusal:
            fate = f"it cannot be set aside: {why(refusal)}"
        said.append(f"left out a checkpoint: {problem}; {fate}")
    if said and newest is None:
        said.append("no whole checkpoint is left; the run starts from its first step")
    return newest, said


def remove_old_checkpoints(root: Path, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the `keep` newest and the best one, and what broken saves left; in the main process.

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


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """Return an optimizer's state as "weight name|state name" -> tensor."""
    return {
        f"{names[weight]}|{kind}": value
        for weight, state in optimizer.state.items()
        for kind, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], weights: dict[str, Tensor]
) -> None:
    """Restore the result of `optimizer_tensors`, on each weight's device; sharded where the weight is."""
    for name, value in tensors.items():
        weight_name, kind = name.rsplit("|", 1)
        weight = weights[weight_name]
        optimizer.state[weight][kind] = cut_like(value, weight).to(weight.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators, which dropout and drop path draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore the result of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Write and fsync everything except the manifest."""
    for stem, tensors in checkpoint.tensors.items():
        path = folder / f"{stem}.safetensors"
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, path, checkpoint.metadata if stem in ("model", "ema") else None)
        sync(path)
    write_file(folder / "state.json", json.dumps(checkpoint.state, indent=1).encode())
    sync(folder)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a complete checkpoint to its final name; a former one is moved away first and removed afterwards."""
    replaced = None
    if is_whole(folder):
        # A folder cannot be renamed over another that holds files, so that the former one steps aside.
        replaced = folder.with_name(f".{folder.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    elif os.path.lexists(folder):
        set_aside(folder)
    try:
        temporary.rename(folder)
    except OSError:
        if replaced is not None:
            replaced.rename(folder)
        raise
    sync(folder.parent)  # the new name is on disk before what it replaces goes
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files that are in a folder."""
    manifest = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            manifest[path.name] = _fingerprint(file)
    write_file(folder / _MANIFEST, _text(manifest))


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _MANIFEST
    if os.path.islink(folder):
        raise CheckpointError(f"{folder} is a link, not a checkpoint; put the folder itself there")
    with _open_plain(path) as file:
        try:
            content = file.read(_LARGEST_MANIFEST + 1)
            manifest = json.loads(content) if len(content) <= _LARGEST_MANIFEST else None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: it cannot be read ({error})") from error
    if not isinstance(manifest, dict) or not all(map(_is_entry, manifest.values())):
        raise CheckpointError(f"{path} is damaged: it is not a list of files, sizes and checksums")
    for name in manifest:
        if not _FILE.fullmatch(name) or name == _MANIFEST:
            raise CheckpointError(f"{path} is damaged: it names {name[:80]!r}, which is no file of a checkpoint")
    if content != _text(manifest):  # so that no byte of this file can change unseen
        raise CheckpointError(f"{path} is damaged: its content is not what was written")
    return manifest


def _is_entry(entry: Any) -> bool:
    kinds = {"size": int, "sha256": str}
    return isinstance(entry, dict) and {name: type(value) for name, value in entry.items()} == kinds


def _open_plain(path: Path) -> io.BufferedReader:
    """Open a plain file. Links are rejected because they may leave the folder, pipes because they would block."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{path} is damaged: it is not a plain file")
        return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is damaged: it is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} is damaged: {why(error)}") from error


def _fingerprint(file: io.BufferedReader) -> dict[str, Any]:
    return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _text(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()
