"""Run commands as processes, a few at a time. A failure does not stop the others; a signal stops all cleanly."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from transmix.printable import printable

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL = 0.05
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Task:
    """A command to run.

    Attributes:
        name: shown to the user.
        command: program and arguments.
        log: log file; the output is appended.
        share: returns the progress, 0 to 1, and a short text; called regularly.
    """

    name: str
    command: Sequence[str]
    log: Path
    share: Callable[[], tuple[float, str]] = lambda: (0.0, "")


@dataclass(frozen=True)
class Outcome:
    """Results of the tasks.

    Attributes:
        done: names of the successful tasks.
        failed: name -> exit code of the failed tasks.
        signal: number of the signal that stopped the rest, or 0.
    """

    done: tuple[str, ...]
    failed: dict[str, int]
    signal: int


def run_tasks(tasks: Sequence[Task], slots: Sequence[Mapping[str, str]], keep_open: Sequence[int] = ()) -> Outcome:
    """Run tasks in order, one per slot at a time.

    On SIGTERM or Ctrl-C the running tasks get one SIGTERM, no new one starts, and this function waits for them. A
    second signal kills them.

    Args:
        tasks: tasks to run.
        slots: environment variables of each slot, for example a GPU number.
        keep_open: file descriptors that the processes inherit.
    """
    waiting, free, done, failed = list(tasks), list(slots), list[str](), dict[str, int]()
    running: dict[subprocess.Popen, tuple[Task, Mapping[str, str], float]] = {}
    signals, passed_on = list[int](), 0
    with ExitStack() as at_end, closing(_Line(len(tasks))) as line:
        for number in SIGNALS:  # noted, in place of their usual effect
            at_end.callback(signal.signal, number, signal.signal(number, lambda number, _: signals.append(number)))
        at_end.callback(_stop, running)
        while running or (waiting and not signals):
            while waiting and free and not signals:
                task, slot = waiting.pop(0), free.pop(0)
                running[_start(task, slot, keep_open)] = task, slot, time.monotonic()
                line.say(f"{task.name} starts; what it prints is in {task.log}")
            if (came := len(signals)) > passed_on:
                passed_on = came
                for process in running:
                    (process.kill if came > 1 else process.terminate)()
            for process in [process for process in running if process.poll() is not None]:
                task, slot, started = running.pop(process)
                free.append(slot)
                if process.returncode == 0:
                    done.append(task.name)
                    line.say(f"{task.name} done after {_minutes(time.monotonic() - started)}")
                elif not signals:
                    failed[task.name] = process.returncode
                    line.say(f"{task.name} failed (exit code {process.returncode}); the end of {task.log}:")
                    for text in tail(task.log):
                        line.say(f"    {text}")
            line.show(len(done) + len(failed), [task for task, _, _ in running.values()])
            time.sleep(POLL)
    return Outcome(tuple(done), failed, next(iter(signals), 0))


def tail(log: Path, lines: int = 6) -> list[str]:
    """Return the last lines of a file, without terminal control characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - 10_000, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [printable(line)[:300] for line in text.splitlines() if line.strip()][-lines:]


def _start(task: Task, slot: Mapping[str, str], keep_open: Sequence[int]) -> subprocess.Popen:
    with task.log.open("ab") as log:
        # In a session of its own: Ctrl-C in a terminal reaches this process alone, which passes it on once.
        return subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slot},
            start_new_session=True,
            pass_fds=keep_open,
        )


def _stop(running: Collection[subprocess.Popen]) -> None:
    """If an error occurs here, stop all child processes and wait for them."""
    for process in running:
        process.terminate()
    for process in running:
        process.wait()


class _Line:
    """A live progress line in a terminal with permanent lines above it; a log gets only the permanent lines."""

    def __init__(self, tasks: int):
        self.tasks, self.live, self.shown = tasks, sys.stdout.isatty(), 0.0
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self.close()
        print(printable(text), flush=True)

    def show(self, ended: int, running: Sequence[Task]) -> None:
        """Show the progress of all tasks once a second."""
        if not self.live or time.monotonic() - self.shown < 1:
            return
        self.shown = time.monotonic()
        where = [(task.name, *task.share()) for task in running]
        share = (ended + sum(part for _, part, _ in where)) / self.tasks
        took = self.shown - self.started
        left = f"  about {_minutes(took / share - took)} left" if share > 0.02 else ""
        parts = [f"{ended} of {self.tasks}", *(f"{name} {word}".rstrip() for name, _, word in where)]
        self.close()
        width = os.get_terminal_size(sys.stdout.fileno()).columns
        print(printable("  ".join(parts) + left)[: width - 1], end="", flush=True)

    def close(self) -> None:
        """Remove the live line."""
        if self.live:
            print("\r\x1b[K", end="")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
