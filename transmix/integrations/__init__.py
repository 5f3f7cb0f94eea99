"""TransMix in the training loops and loaders of other libraries, one file per library."""
