"""Stop on a signal: it sets a flag, all processes agree, the run saves and exits with code 128 + signal."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from transmix.distributed import World
from transmix.error import TransMixError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""What asks a run to stop: a scheduler, the keyboard, a scheduler's early warning."""

SAME = 1.0
"""Seconds within which further signals are the same request: a scheduler signals every process, and torchrun too."""

AGREE_EVERY = 10
"""Steps (or evaluation batches) between two agreements of several processes."""


class StoppedError(TransMixError):
    """The run was stopped by a signal, and has saved.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; --resume continues from there")
        self.signal, self.code = number, 128 + number


class Watch:
    """Watches for signals and for the time of the next checkpoint, together with the other processes.

    A context manager: inside it the signals in `SIGNALS` only set a flag. A second one, more than a second after the
    first, stops the process at once. Outside the main thread, where Python allows no handlers, signals
    keep their handlers.

    Args:
        world: rank and device of this process; every process must make the same calls.
        minutes: minutes between two checkpoints, or None.
    """

    def __init__(self, world: World, minutes: float | None = None):
        self.world, self.minutes = world, minutes
        self.signal, self.asked_at = 0, 0.0
        self.saved_at = time.monotonic()
        self.before: dict[int, object] = {}
        # Signals are agreed on between processors' memories: the devices are left to compute.
        on_cpu = world.size > 1 and dist.get_backend() != "gloo"
        self.group: Any = dist.new_group(backend="gloo") if on_cpu else None

    def __enter__(self) -> "Watch":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._raise_flag) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.before = {}

    def _raise_flag(self, number: int, _: FrameType | None) -> None:
        if self.signal and time.monotonic() - self.asked_at > SAME:
            # As if there were no handler, so that whoever waits for this process sees it end by that signal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.signal:
            self.signal, self.asked_at = number, time.monotonic()

    def look(self, turn: int = 0) -> tuple[int, bool]:
        """Return the signal that any process got, or 0, and whether it is time for a checkpoint.

        Args:
            turn: a counter, equal in every process. With several processes, they communicate only at multiples of
            AGREE_EVERY; all other calls return 0, False.
        """
        if self.world.size > 1 and turn % AGREE_EVERY:
            return 0, False
        due = self.minutes is not None and time.monotonic() - self.saved_at >= 60 * self.minutes
        if self.world.size == 1:
            return self.signal, due
        # Clocks differ, and a signal may reach one process alone: the largest of all is what everyone does.
        flags = torch.tensor([self.signal, int(due)])
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.group)
        number, due = flags.tolist()
        return number, bool(due)

    def has_saved(self) -> None:
        """Restart the time to the next checkpoint."""
        self.saved_at = time.monotonic()
