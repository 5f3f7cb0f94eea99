"""Pictures: what mixing and attention do, for people to look at."""
