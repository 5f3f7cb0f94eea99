"""Runs on disk: the run folder, its checkpoints and its log."""
