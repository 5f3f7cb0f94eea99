"""Checkpoints: a folder per optimizer step that is either whole or not there.

    step-00000123/
        model.safetensors, ema.safetensors, optimizer.safetensors, random-0.safetensors (one per process)
        state.json      everything that is not a tensor
        manifest.json   size and sha256 of the others, written last

Written under a temporary name in the same place, fsynced, renamed. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that is not whole; the message says which file and why."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        tensors: file stem ("model", "ema", "optimizer", "random-0") -> name -> tensor.
        state: everything else, as JSON can hold it; always has "step".
        metadata: texts that go into model and ema files, so that each can be used by itself.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    metadata: dict[str, str]


def save_checkpoint(root: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under `root` and return its folder."""
    folder = root / f"step-{checkpoint.state['step']:08d}"
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for stem, tensors in checkpoint.tensors.items():
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, temporary / f"{stem}.safetensors", checkpoint.metadata if stem in ("model", "ema") else None)
    (temporary / "state.json").write_text(json.dumps(checkpoint.state, indent=1))
    manifest = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in (*temporary.iterdir(), temporary):
        _fsync(path)
    if folder.exists():  # it did not verify, else the run would have gone on from there
        folder.rename(root / f"damaged-{folder.name}-{os.getpid()}")
    temporary.rename(folder)
    _fsync(root)
    return folder


def newest_checkpoint(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and what was wrong with newer ones."""
    problems = []
    for folder in sorted(root.glob("step-*"), reverse=True):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return folder, problems
    return None, problems


def verify_checkpoint(folder: Path) -> None:
    """Check that every file is there with the size and content that were written.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest.items():
            if _fingerprint(folder / name) != expected:
                raise CheckpointError(f"{folder / name} is damaged: its content is not what was written")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {error}") from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, all tensors on the CPU.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    try:
        tensors, metadata = {}, {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors[path.stem], found = read_tensors(path)
            metadata |= found
        return Checkpoint(tensors, json.loads((folder / "state.json").read_text()), metadata)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {folder}: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: no such file, or not one of this format.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kinds, none of them public in all versions
        raise CheckpointError(f"cannot read {path}: {error}") from error


def remove_old_checkpoints(root: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the `keep` newest checkpoints and the one of the best step, and what broken saves left."""
    folders = sorted(root.glob("step-*"))
    for folder in folders[:-keep]:
        if best_step is None or folder.name != f"step-{best_step:08d}":
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


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
    """Put back what `optimizer_tensors` gave, on each weight's device."""
    for name, value in tensors.items():
        weight_name, kind = name.rsplit("|", 1)
        weight = weights[weight_name]
        optimizer.state[weight][kind] = value.to(weight.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators, which dropout and drop path draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
