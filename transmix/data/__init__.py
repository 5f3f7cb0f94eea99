"""Data sets, keyed augmentation, and loaders that can resume anywhere."""
