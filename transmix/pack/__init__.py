"""Pack a data set: resize its images once, and write them to files that are read by index through memory mapping."""

from transmix.pack.write import PackSettings, Summary, pack

__all__ = ["PackSettings", "Summary", "pack"]
