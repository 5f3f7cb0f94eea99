"""Data sets, augmentation seeded per sample, and loaders that can resume at any step."""
