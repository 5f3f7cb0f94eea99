"""Neighbours: TransMix in the loops and loaders of other libraries, one file each, loaded where they are used."""
