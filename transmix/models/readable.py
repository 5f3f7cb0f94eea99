"""The table of models whose class attention is read, and of models that are refused; `make models` writes it.

A model that is not listed may be readable all the same, and what cannot be read raises an error that says what to do.
"""

import csv
from pathlib import Path


def read_table() -> list[dict[str, str]]:
    """Return the rows of readable.csv; `scripts/readable.py` says what the columns are."""
    text = Path(__file__).with_suffix(".csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def model_text(row: dict[str, str]) -> str:
    """Return a row's model as a call: its name, and its options in parentheses if there are any."""
    return row["model"] + (f"({row['options']})" if row["options"] else "")
