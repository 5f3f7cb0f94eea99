"""Progress of training: a live bar in a terminal, plain lines in a log."""

import sys
import time
from typing import Any

from tqdm import tqdm

from transmix.metrics import TRAINING_METRICS, log_metrics

SHOWN = ("loss", "top1", "ema_top1", "label_shift", "images_per_second")
"""Values of an epoch that its line shows, by their names in the log."""


class Progress:
    """Shows epoch, step, images per second, loss and time left.

    Args:
        steps: optimizer steps of the whole run.
        first_step: number of steps already done.
        epochs: epochs of the run.
        images_per_step: images per step over all processes.
        quiet: show nothing (on all ranks except 0).
    """

    def __init__(self, steps: int, first_step: int, epochs: int, images_per_step: int, quiet: bool):
        self.steps, self.epochs, self.images_per_step, self.quiet = steps, epochs, images_per_step, quiet
        self.done = self.first_step = first_step
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=steps * images_per_step,
            initial=first_step * images_per_step,
            unit="img",
            unit_scale=True,
            leave=False,
            bar_format="{desc} {bar:20} {percentage:3.0f}% {rate_fmt}{postfix}, {remaining} left",
            disable=quiet or not sys.stderr.isatty(),
        )

    def advance(self, epoch: int) -> None:
        """Advance by one step."""
        self.done += 1
        self.bar.set_description_str(f"epoch {epoch + 1}/{self.epochs} step {self.done}/{self.steps}", refresh=False)
        self.bar.update(self.images_per_step)

    def show(self, values: dict[str, Any]) -> None:
        """Show the latest loss."""
        loss = TRAINING_METRICS["loss"]
        self.bar.set_postfix_str(f"{loss.label} {loss.write(values['loss'], unit=False)}", refresh=False)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.bar.write(text) if not self.bar.disable else print(text, flush=True)

    def say_epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Print the result of an epoch as one line."""
        metrics = log_metrics()
        parts = [f"{metrics[name].label} {metrics[name].write(row[name])}" for name in SHOWN if name in row]
        left = (time.perf_counter() - self.started) / max(self.done - self.first_step, 1) * (self.steps - self.done)
        parts = [f"epoch {epoch + 1}/{self.epochs}", *parts, f"{_duration(left)} left"]
        self.say("  ".join(parts))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
