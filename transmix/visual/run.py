"""What a run folder keeps for figures: its log, and the attention over the same validation images after each epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from transmix.attention import AttentionError
from transmix.runs.checkpoint import read_tensors
from transmix.runs.error import RunError
from transmix.runs.folder import read_classes
from transmix.runs.read import read_run


@dataclass(frozen=True, eq=False)
class Examples:
    """The same validation images over the epochs of a run.

    Attributes:
        images: (B, 3, H, W) uint8.
        labels: (B,) int64.
        grid: (h, w) of the patches.
        attention: epoch, from 1 -> (B, P).
        logits: epoch -> (B, K).
        classes: K names.
    """

    images: Tensor
    labels: Tensor
    grid: tuple[int, int]
    attention: dict[int, Tensor]
    logits: dict[int, Tensor]
    classes: tuple[str, ...]


def read_examples(folder: Path) -> Examples:
    """Read what a run kept of its validation images.

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
    first = next(iter(epochs.values()))
    if not all("attention" in tensors for tensors in epochs.values()):
        raise AttentionError(
            f"{folder} keeps no attention: that of its model cannot be read. Train one with a class token, or give it "
            f"a class-attention head: --class-attention"
        )
    h, w = first["grid"].tolist()
    return Examples(
        first["images"],
        first["labels"],
        (h, w),
        {epoch: tensors["attention"] for epoch, tensors in epochs.items()},
        {epoch: tensors["logits"] for epoch, tensors in epochs.items()},
        read_classes(folder),
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's log.

    Raises:
        RunError: No such run, or it logged nothing.
    """
    rows = read_run(folder).rows
    if not rows:
        raise RunError(f"{folder} holds no log yet (metrics.jsonl); a row is written every few steps")
    return rows
