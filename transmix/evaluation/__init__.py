"""Scores of a trained model: one property per file, each computed by a small accumulator on the device."""
