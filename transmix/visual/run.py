"""Read the data for figures from a run folder: its log, and the attention over fixed validation images per epoch."""

from pathlib import Path
from typing import Any

from torch import Tensor

from transmix.attention import AttentionError
from transmix.runs.checkpoint import read_tensors
from transmix.runs.error import RunError
from transmix.runs.read import read_run


def read_examples(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Read a run's outputs on the fixed validation images: epoch, from 1 -> arrays.

    Of each epoch: `images` (B, 3, H, W) uint8, `labels` (B,) int64, `grid` (2,), h and w of the patches,
    `attention` (B, P), `logits` (B, K).

    Raises:
        RunError: No such run, or it has none.
        AttentionError: They have no attention.
        CheckpointError: A file that cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    paths = sorted((folder / "examples").glob("epoch-*.safetensors"))
    if not paths:
        raise RunError(f"{folder} has no validation images (examples/); they are written when an epoch is evaluated")
    epochs = {int(path.stem.removeprefix("epoch-")): read_tensors(path)[0] for path in paths}
    if not all("attention" in tensors for tensors in epochs.values()):
        raise AttentionError(
            f"{folder} has no attention maps: the attention of its model cannot be read. Train one with a class "
            "token, or give it a class-attention head: --class-attention"
        )
    return epochs


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's log.

    Raises:
        RunError: No such run, or an empty log.
    """
    if not (rows := read_run(folder).rows):
        raise RunError(f"{folder} holds no log yet (metrics.jsonl); a row is written every few steps")
    return rows
