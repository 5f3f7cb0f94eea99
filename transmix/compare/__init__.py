"""Compare runs: scores over seeds, and paired differences with their significance."""

from transmix.compare.comparison import Comparison, compare_runs
from transmix.compare.groups import read_run
from transmix.compare.write import as_json, write_comparison
from transmix.runs.read import RunRecord

__all__ = ["Comparison", "RunRecord", "as_json", "compare_runs", "read_run", "write_comparison"]
