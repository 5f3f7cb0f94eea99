"""Read the data for figures from a run folder: its log, and the attention over fixed validation images per epoch."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from transmix.attention import AttentionError
from transmix.runs.checkpoint import read_tensors
from transmix.runs.error import RunError
from transmix.runs.folder import read_classes
from transmix.runs.read import read_run
from transmix.visual.attention import epochs_figure, most_columns, spaced
from transmix.visual.palette import PAGE


def examples_figure(folder: Path, count: int | None = None, width: float = PAGE) -> Figure:
    """Draw the attention of a run's model over the fixed validation images, epoch by epoch.

    Args:
        folder: Run folder.
        count: Maximum number of images; None: all.
        width: Figure width in inches.

    Raises:
        RunError, AttentionError, CheckpointError: As `read_examples`.
    """
    epochs = read_examples(folder, most_columns(width))
    attention, logits = (
        {epoch: tensors[name][:count] for epoch, tensors in epochs.items()} for name in ("attention", "logits")
    )
    images, labels, grid = (next(iter(epochs.values()))[name] for name in ("images", "labels", "grid"))
    h, w = grid.tolist()
    names = read_classes(folder)
    return epochs_figure(images[:count], attention, (h, w), labels[:count], logits, names, width=width)


def read_examples(folder: Path, most: int | None = None) -> dict[int, dict[str, Tensor]]:
    """Read a run's outputs on the fixed validation images: epoch, from 1 -> arrays.

    With `most`, at most so many epochs are read, evenly spaced. Of each epoch: `images` (B, 3, H, W) uint8,
    `labels` (B,) int64, `grid` (2,), h and w of the patches,
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
    chosen = paths if most is None else spaced(paths, most)
    epochs = {int(path.stem.removeprefix("epoch-")): read_tensors(path)[0] for path in chosen}
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
