"""Export a run's model for other programs: one format per file; each export is loaded again and compared."""
