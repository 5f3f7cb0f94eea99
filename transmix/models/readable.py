"""The table of models with readable class attention, and of rejected models; `make models` writes it.

Models that are not listed may work too. A model that does not work raises an error with a remedy.
"""

import csv
from pathlib import Path


def read_table() -> list[dict[str, str]]:
    """Return the rows of readable.csv; `scripts/readable.py` describes the columns."""
    text = Path(__file__).with_suffix(".csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def model_text(row: dict[str, str]) -> str:
    """Return a row's model name, with its options in parentheses if there are any."""
    return row["model"] + (f"({row['options']})" if row["options"] else "")
