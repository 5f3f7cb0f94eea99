"""Commands as processes, so many at a time: one that fails leaves the others alone, a signal ends all in order."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from transmix.printable import printable

SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL = 0.05
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Task:
    """A command to run.

    Attributes:
        name: for the reader.
        command: program and arguments.
        log: file that takes what it prints, after what is there.
        share: how much of it is done, 0 to 1, with a word on where it is; asked now and then.
    """

    name: str
    command: Sequence[str]
    log: Path
    share: Callable[[], tuple[float, str]] = lambda: (0.0, "")


@dataclass(frozen=True)
class Outcome:
    """What became of tasks.

    Attributes:
        done: names of those that ended well.
        failed: name -> exit code of those that did not.
        signal: number of the signal that stopped the rest, or 0.
    """

    done: tuple[str, ...]
    failed: dict[str, int]
    signal: int


@dataclass(eq=False)
class _Process:
    task: Task
    slot: Mapping[str, str]
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)


def run_tasks(tasks: Sequence[Task], slots: Sequence[Mapping[str, str]], keep_open: Sequence[int] = ()) -> Outcome:
    """Run tasks in their order, as many at a time as there are slots.

    SIGTERM or Ctrl-C reaches the running ones as SIGTERM, once; no further one starts, and all are waited for. Another
    signal kills them.

    Args:
        tasks: what to run.
        slots: the environment variables of each place where a task can run (a GPU's number, say).
        keep_open: file descriptors that the processes inherit.
    """
    waiting, running, free = list(tasks), list[_Process](), list(slots)
    done, failed = list[str](), dict[str, int]()
    with _Signals() as signals, _Line(len(tasks)) as line, _none_left(running):
        while running or (waiting and not signals.first):
            while waiting and free and not signals.first:
                running.append(_start(waiting.pop(0), free.pop(0), keep_open))
                line.say(f"{running[-1].task.name} starts; what it prints is in {running[-1].task.log}")
            for one in running if signals.take() else ():
                (one.process.kill if signals.again else one.process.terminate)()
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.slot)
                code = one.process.returncode
                if code == 0:
                    done.append(one.task.name)
                    line.say(f"{one.task.name} done after {_minutes(time.monotonic() - one.started)}")
                elif not signals.first:
                    failed[one.task.name] = code
                    line.say(f"{one.task.name} failed (exit code {code}); the end of {one.task.log}:")
                    for text in tail(one.task.log):
                        line.say(f"    {text}")
            line.show(len(done) + len(failed), [one.task for one in running])
            time.sleep(POLL)
    return Outcome(tuple(done), failed, signals.first)


def tail(log: Path, lines: int = 6) -> list[str]:
    """Return the last lines of a file, without what a terminal would obey."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - 10_000, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [printable(line)[:300] for line in text.splitlines() if line.strip()][-lines:]


def _start(task: Task, slot: Mapping[str, str], keep_open: Sequence[int]) -> _Process:
    with task.log.open("ab") as log:
        # In a session of its own: Ctrl-C in a terminal reaches this process alone, which passes it on once.
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slot},
            start_new_session=True,
            pass_fds=keep_open,
        )
    return _Process(task, slot, process)


@contextmanager
def _none_left(running: Sequence[_Process]) -> Iterator[None]:
    """Let no process outlive this one's error: they are asked to stop, and waited for."""
    try:
        yield
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()


class _Signals:
    """Notes signals while it is entered: the first, whether there was another, and each until it is taken."""

    def __init__(self):
        self.first, self.again, self.untaken = 0, False, False
        self.before: dict[int, object] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        self.again = bool(self.first)
        self.first = self.first or number
        self.untaken = True

    def take(self) -> bool:
        """Whether a signal came since the last call."""
        untaken, self.untaken = self.untaken, False
        return untaken


class _Line:
    """One live line in a terminal, with what is worth keeping above it; in a log only the latter."""

    def __init__(self, tasks: int):
        self.tasks, self.live, self.shown = tasks, sys.stdout.isatty(), 0.0
        self.started = time.monotonic()

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def say(self, text: str) -> None:
        """Print a line to stay."""
        self._clear()
        print(printable(text), flush=True)

    def show(self, ended: int, running: Sequence[Task]) -> None:
        """Say once a second how far all are."""
        if not self.live or time.monotonic() - self.shown < 1:
            return
        self.shown = time.monotonic()
        where = [(task.name, *task.share()) for task in running]
        share = (ended + sum(part for _, part, _ in where)) / self.tasks
        took = self.shown - self.started
        left = f"  about {_minutes(took / share - took)} left" if share > 0.02 else ""
        parts = [f"{ended} of {self.tasks}", *(f"{name} {word}".rstrip() for name, _, word in where)]
        self._clear()
        width = os.get_terminal_size(sys.stdout.fileno()).columns
        print(printable("  ".join(parts) + left)[: width - 1], end="", flush=True)

    def _clear(self) -> None:
        if self.live:
            print("\r\x1b[K", end="")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
