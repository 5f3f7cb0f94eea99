"""Runs beside each other: scores over seeds, paired differences, and whether they are more than noise."""

from transmix.compare.comparison import Comparison, compare_runs
from transmix.compare.read import Trained, read_run
from transmix.compare.record import as_json
from transmix.compare.write import write_comparison

__all__ = ["Comparison", "Trained", "as_json", "compare_runs", "read_run", "write_comparison"]
