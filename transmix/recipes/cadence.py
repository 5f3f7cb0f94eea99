"""How often to save: every N steps, minutes or epochs."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Interval between checkpoints: one field is set, the others are None."""

    steps: int | None = None
    minutes: float | None = None
    epochs: int | None = None

    def at_step(self, step: int) -> bool:
        """Whether the end of this step, counted from 1, is a time to save."""
        return self.steps is not None and step % self.steps == 0

    def at_epoch(self, epoch: int) -> bool:
        """Whether the end of this epoch, counted from 1, is a time to save."""
        return self.epochs is None or epoch % self.epochs == 0


def parse_cadence(text: int | str | None) -> Cadence:
    """Parse 500, "500steps", "15min" or "2epochs"; None means every epoch.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return Cadence(epochs=1)
    match = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*(|steps?|epochs?|min|minutes?)\s*", str(text))
    minutes = match is not None and match[3].startswith("min")
    if match is None or float(match[1]) <= 0 or (match[2] and not minutes):
        raise ValueError(f"must be a number of steps, or like 15min or 2epochs, not {text!r}")
    if minutes:
        return Cadence(minutes=float(match[1]))
    return Cadence(epochs=int(match[1])) if match[3].startswith("epoch") else Cadence(steps=int(match[1]))
