"""Progress of training: a live bar in a terminal, plain lines in a log."""

import sys
import time
from typing import Any

from tqdm import tqdm

from transmix.metrics import TRAINING_METRICS, log_metrics

SHOWN = ("loss", "top1", "ema_top1", "label_shift", "images_per_second")
"""Values of an epoch that its line shows, by their names in the log."""

MEASURED, SECONDS = 3, 5.0
"""The expected time is said after so many steps, not counting the first, and so many seconds."""


class Progress:
    """Shows epoch, step, images per second, loss and time left.

    Args:
        steps: optimizer steps of the whole run.
        first_step: number of steps already done.
        epochs: epochs of the run.
        images_per_step: images per step over all processes.
        quiet: show nothing (on all ranks except 0).
        evaluations: duration of all evaluations of a whole run, in training steps.
    """

    def __init__(
        self, steps: int, first_step: int, epochs: int, images_per_step: int, quiet: bool, evaluations: float = 0.0
    ):
        self.steps, self.epochs, self.images_per_step, self.quiet = steps, epochs, images_per_step, quiet
        self.done = self.first_step = first_step
        self.evaluations, self.after_first, self.has_said = evaluations, 0.0, False
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
        """Advance by one step; say once how long the run will take."""
        self.done += 1
        if not self.has_said:
            self._expect(self.done - self.first_step - 1, time.perf_counter())
        self.bar.set_description_str(f"epoch {epoch + 1}/{self.epochs} step {self.done}/{self.steps}", refresh=False)
        self.bar.update(self.images_per_step)

    def _expect(self, measured: int, now: float) -> None:
        """Say how long the rest of the run will take, once that is known; the first step warms up."""
        if measured == 0:
            self.after_first = now
        elif measured >= MEASURED and now - self.after_first >= SECONDS:
            self.has_said = True
            left = self.steps - self.done
            minutes = (now - self.after_first) / measured * left * (1 + self.evaluations / self.steps) / 60
            several = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes"
            self.say(f"time      about {'a minute' if minutes < 1.5 else several} left")

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
