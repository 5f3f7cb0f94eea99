"""The log of a run: metrics.jsonl always, metrics.csv made from it, TensorBoard on request."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transmix.runs.atomic_write import replace_file, why, writing
from transmix.runs.error import RunError


class RunLog:
    """Appends rows to a run's metrics; after a resume, rows later than the checkpoint are removed.

    Rows of kind "train" come every few steps, of kind "epoch" once an epoch; the CSV holds the latter.

    Args:
        folder: run folder.
        step: keep rows up to this optimizer step (0: start empty).
        tensorboard: also write event files.
        rows: maximum number of rows to keep: the number when the checkpoint was saved. An epoch's row may have the
            checkpoint's step and still come after it.

    Attributes:
        rows: number of rows.
        epochs: rows of kind "epoch".

    Raises:
        RunError: a file cannot be read or written.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool, rows: int | None = None):
        self.path = folder / "metrics.jsonl"
        self.csv_path = folder / "metrics.csv"
        kept = [row for row in read_rows(self.path)[:rows] if row["step"] <= step] if step else []
        kept = list({(row["kind"], row["step"]): row for row in kept}.values())
        self.rows = len(kept)
        self.epochs = [row for row in kept if row["kind"] == "epoch"]
        with writing(self.path):
            replace_file(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._write_csv()
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            with writing(folder / "tensorboard"):
                self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one row.

        Raises:
            RunError: it cannot be written.
        """
        row = {"kind": kind, "step": step, **values}
        with writing(self.path), self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
        self.rows += 1
        if kind == "epoch":
            self.epochs.append(row)
            self._write_csv()
        if self.writer is not None:
            with writing(self.path.with_name("tensorboard")):
                for name, value in values.items():
                    if isinstance(value, int | float):
                        self.writer.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Call fsync on the log, so that its rows survive a crash.

        Raises:
            RunError: fsync failed, or the file is gone.
        """
        # "rb", since "ab" would make a log that is gone anew, and nobody would notice. fsync takes any descriptor.
        with writing(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())
        if self.writer is not None:
            with writing(self.path.with_name("tensorboard")):
                self.writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self.writer is not None:
            self.writer.close()

    def _write_csv(self) -> None:
        columns = list(dict.fromkeys(name for row in self.epochs for name in row if name != "kind"))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.epochs)
        with writing(self.csv_path):
            replace_file(self.csv_path, text.getvalue().encode())


def training_windows(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return (step, value) of one quantity of the training rows, averaged over windows of about equal length.

    A row holds the mean over the steps since the previous row. An early row (end of an epoch, a save) covers few steps
    and would look like a spike, so it is merged with the previous window, weighted by steps. The first window is merged
    with the next.
    """
    found = [row for row in rows if row["kind"] == "train" and isinstance(row.get(name), int | float)]
    ends = [0, *(row["step"] for row in rows if row["kind"] == "train")]
    before = dict(zip(ends[1:], ends, strict=False))
    lengths = {row["step"]: row["step"] - before[row["step"]] for row in found}
    usual = sorted(lengths.values())[len(lengths) // 2] if lengths else 0
    joined: list[tuple[int, float, int]] = []
    for row in found:
        step, value, length = row["step"], float(row[name]), lengths[row["step"]]
        if joined and 2 * min(length, joined[-1][2]) < usual:
            _, other, others = joined.pop()
            value, length = (other * others + value * length) / (others + length), others + length
        joined.append((step, value, length))
    return [(step, value) for step, value, _ in joined]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; invalid lines, for example after a crash, are skipped.

    Raises:
        RunError: the file exists but cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"cannot read {path}: {why(error)}") from error
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and "kind" in row and type(row.get("step")) is int else None
