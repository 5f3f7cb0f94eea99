"""A run's model for other programs: one format a file; what was written is opened again and compared."""
