"""What a run folder keeps for figures: its log, and the attention over the same validation images after each epoch."""

from pathlib import Path
from typing import Any

from torch import Tensor

from transmix.attention import AttentionError
from transmix.runs.checkpoint import read_tensors
from transmix.runs.error import RunError
from transmix.runs.read import read_run


def read_examples(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Read what a run kept of the same validation images: epoch, from 1 -> what it saw in them.

    Of each epoch: `images` (B, 3, H, W) uint8, `labels` (B,) int64, `grid` (2,), h and w of the patches,
    `attention` (B, P), `logits` (B, K).

    Raises:
        RunError: No such run, or it kept none.
        AttentionError: It kept them without attention.
        CheckpointError: A file that cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    paths = sorted((folder / "examples").glob("epoch-*.safetensors"))
    if not paths:
        raise RunError(f"{folder} keeps no validation images (examples/); they are written when an epoch is evaluated")
    epochs = {int(path.stem.removeprefix("epoch-")): read_tensors(path)[0] for path in paths}
    if not all("attention" in tensors for tensors in epochs.values()):
        raise AttentionError(
            f"{folder} keeps no attention: that of its model cannot be read. Train one with a class token, or give it "
            f"a class-attention head: --class-attention"
        )
    return epochs


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's log.

    Raises:
        RunError: No such run, or it logged nothing.
    """
    if not (rows := read_run(folder).rows):
        raise RunError(f"{folder} holds no log yet (metrics.jsonl); a row is written every few steps")
    return rows
