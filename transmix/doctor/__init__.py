"""Check every image of a data set, and report what would stop or mislead training."""

from transmix.doctor.examine import examine
from transmix.doctor.report import Finding, Report

__all__ = ["Finding", "Report", "examine"]
