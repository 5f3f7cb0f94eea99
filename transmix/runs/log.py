"""The log of a run: metrics.jsonl always, metrics.csv made from it, TensorBoard when asked."""

import csv
import json
import os
from pathlib import Path
from typing import Any


class RunLog:
    """Appends rows to a run's metrics; after a resume, rows past the checkpoint are gone.

    Rows of kind "train" come every few steps, of kind "epoch" once an epoch; the CSV holds the latter.

    Args:
        folder: of the run.
        step: keep rows up to this optimizer step (0: start empty).
        tensorboard: also write event files.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.path = folder / "metrics.jsonl"
        self.csv_path = folder / "metrics.csv"
        rows = [row for row in read_rows(self.path) if row["step"] <= step] if step else []
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self.epochs = [row for row in rows if row["kind"] == "epoch"]
        self._write_csv()
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one row."""
        row = {"kind": kind, "step": step, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if kind == "epoch":
            self.epochs.append(row)
            self._write_csv()
        if self.writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Make sure that what was written survives a crash."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self.writer is not None:
            self.writer.close()

    def _write_csv(self) -> None:
        columns = list(dict.fromkeys(name for row in self.epochs for name in row if name != "kind"))
        temporary = self.csv_path.with_suffix(".csv.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.epochs)
        temporary.replace(self.csv_path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a last line that a crash cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that readers find the old or the new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
