"""Scores of a trained model: one property a file, each a small accumulator that lives on the device."""
