"""Training runs killed with -9 at random moments, resumed until done, compared with runs that nobody disturbed.

Half of the moments are drawn over the whole run; the other half wait for a phase (a checkpoint being saved, renamed
or removed, an evaluation, a loader that starts, ...) and then some milliseconds. One process or two with gradients
averaged (one of them killed, or both; what is left is ended as torchrun does), with their loader workers or without,
and with 0 or 2 workers from one life to the next. Afterwards every tensor of the checkpoints (weights, average,
optimizer, generators), every score and every line of the metrics must be that of the undisturbed run, no checkpoint
may be damaged, and each life must have begun where the newest checkpoint was. First, restores that are broken on
purpose must be noticed.

    python scripts/chaos.py [--kills 200] [--seed 0] [--processes 1 2] [--log runs/chaos.txt]

The parent imports everything once and forks each life, so that it costs a second and not ten. Where a process is, it
says itself, in memory shared with the parent. Draws follow the seed, what they hit does not: time is not repeatable.
"""

import argparse
import csv
import functools
import json
import mmap
import os
import platform
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import transmix.visual.pairs  # noqa: F401  a life would import it at its own cost
from transmix.data.loader import TrainingBatches
from transmix.data.settings import Augmentation, Data
from transmix.recipes import Recipe
from transmix.recipes.settings import Mixing, Model, Optimization, Run
from transmix.runs import checkpoint as checkpoint_module
from transmix.runs.checkpoint import list_checkpoints, load_checkpoint
from transmix.runs.error import CheckpointError
from transmix.training import checkpoint_state, loop
from transmix.training.step import TrainingStep

IMAGES = {"train": 48, "val": 16}
STEPS = 18  # 3 epochs of 6
CONTROL_KILL = 10  # dead after this step, counted from 0: step 10 is saved, and step 11 has a line
HANGS = 120.0  # seconds
POLL = 0.0002  # seconds
GRACE = 2.0  # seconds between SIGTERM and SIGKILL for the others of a process that died; torchrun gives 30


# The run.


def write_images(root: Path) -> Path:
    """Write two classes of noise, one dark and one light."""
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for name, brightness in (("dark", 60), ("light", 180)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count // 2):
                pixels = rng.normal(brightness, 40, (20, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return root


def tiny_recipe(images: Path) -> Recipe:
    """Return a run of a second or two that draws on every kind of randomness and saves every other step."""
    options: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_rate": 0.1}
    return Recipe(
        Data(data=str(images), image_size=16, workers=0),
        Augmentation(crop="pad", pad=2, eval_crop=1.0),
        Model("vit_tiny_patch16_224", options, drop_path=0.2),
        Mixing(),
        Optimization(epochs=3, batch_size=8, accumulate=2, warmup_epochs=0.5, ema_decay=0.9, clip_grad=1.0),
        Run(device="cpu", threads=1, log_every=1, checkpoint_every=2),
    )


# The comparison.


def differences(folder: Path, expected: Path) -> list[str]:
    """Return in what the run in a folder differs from another one, times apart; nothing if it does not."""
    found = [f"{path.name} is there" for path in sorted((folder / "checkpoints").glob("damaged-*"))]
    best = json.loads((expected / "summary.json").read_text())["best"]["step"]
    newest = list_checkpoints(expected / "checkpoints")[-1].name
    for name in sorted({f"step-{best:08d}", newest}):
        found += _checkpoint_differences(*(run / "checkpoints" / name for run in (folder, expected)))
    if (ours := [path.name for path in list_checkpoints(folder / "checkpoints")][-1:]) != [newest]:
        found.append(f"the newest checkpoint is {ours}, not {newest}")
    tensors = [
        "model.safetensors",
        "ema.safetensors",
        *(f"examples/{one.name}" for one in (expected / "examples").glob("*.safetensors")),
    ]
    for name in tensors:
        if (expected / name).exists():
            found += _file_differences(folder, expected, name, _tensors)
    for name, read in {
        "summary.json": _summary,
        "metrics.jsonl": _lines,
        "metrics.csv": _table,
        "confusion.csv": Path.read_text,
    }.items():
        found += _file_differences(folder, expected, name, read)
    return found


def _checkpoint_differences(ours: Path, expected: Path) -> list[str]:
    try:
        one, other = load_checkpoint(ours), load_checkpoint(expected)
    except CheckpointError as error:
        return [str(error)]
    found = [] if one.tensors.keys() == other.tensors.keys() else [f"{ours.name}: other files: {sorted(one.tensors)}"]
    for stem in one.tensors.keys() & other.tensors.keys():
        found += _unlike(f"{ours.name}/{stem}", _bytes(one.tensors[stem]), _bytes(other.tensors[stem]))
    return found + _unlike(f"{ours.name}/state", one.state, other.state)


def _file_differences(folder: Path, expected: Path, name: str, read: Callable[[Path], Any]) -> list[str]:
    try:
        one = read(folder / name)
    except Exception as error:
        return [f"{name} cannot be read: {type(error).__name__}: {error}"]
    other = read(expected / name)
    if isinstance(one, dict):
        return _unlike(name, one, other)
    return (
        []
        if one == other
        else [f"{name} differs" + (f": {len(one)} lines, not {len(other)}" if len(one) != len(other) else "")]
    )


def _unlike(where: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return (
        [f"{where}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"] if names else []
    )


def _bytes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        name: (str(one.dtype), one.shape, one.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, one in tensors.items()
    }


def _tensors(path: Path) -> dict[str, Any]:
    return _bytes(load_file(path))


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "images_per_second"}


def _summary(path: Path) -> dict[str, Any]:
    summary = json.loads(path.read_text())
    return summary | {"last": _timeless(summary["last"])}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]


def _table(path: Path) -> list[dict[str, Any]]:
    return [_timeless(row) for row in csv.DictReader(path.read_text().splitlines())]


# Where a process is.

PHASES: dict[str, list[tuple[Any, str]]] = {
    "start-up": [],
    "reading a checkpoint": [(loop, "choose_checkpoint"), (loop, "load_checkpoint"), (loop, "restore")],
    "loader start": [(TrainingBatches, "__iter__")],
    "loading a batch": [(loop, "finish")],  # and whatever else is in none of the other phases
    "step": [(TrainingStep, "__call__")],
    "checkpoint save": [(loop, "save")],
    "checkpoint rename": [(checkpoint_module, "_put_in_place")],
    "checkpoint removal": [(checkpoint_state, "remove_old_checkpoints")],
    "evaluation": [(loop, "_evaluate")],
    "metrics": [(loop.RunLog, "__init__"), (loop.RunLog, "write")],
    "pictures, examples": [(loop, "draw_boxes"), (loop, "keep_examples")],
    "start, end of folder": [(loop.run_folder, "write_start"), (loop.run_folder, "write_end")],
    "leaving": [(loop.distributed, "stop")],
}
NAMES = list(PHASES)
AIMED = [name for name in NAMES if name not in ("start-up", "loading a batch", "step")]


class Marker:
    """Memory in which a process says in which phase it is, how often it entered each, and where it began."""

    WORDS = 2 + len(PHASES)

    def __init__(self, processes: int):
        self.words = memoryview(mmap.mmap(-1, 4 * self.WORDS * processes)).cast("I")

    def phase(self, rank: int) -> str:
        """Return where a process is, or was when it died."""
        return NAMES[self.words[rank * self.WORDS]]

    def entries(self, phase: str) -> int:
        """Return how often a process has entered a phase, the one that did most often."""
        return max(self.words[2 + NAMES.index(phase) :: self.WORDS])

    def began_at(self, rank: int) -> int | None:
        """Return the step from which a process went on, if it came so far."""
        return self.words[rank * self.WORDS + 1] - 1 if self.words[rank * self.WORDS + 1] else None

    def install(self, rank: int) -> None:
        """From now on, say it; in a forked child."""
        base = rank * self.WORDS
        for number, hooks in enumerate(PHASES.values()):
            for owner, name in hooks:
                setattr(owner, name, self._marked(getattr(owner, name), base, number))
        finish = loop.finish

        def begin(run: loop.RunState, watch: loop.Watch) -> dict[str, Any]:
            self.words[base + 1] = run.step_number + 1
            return finish(run, watch)

        loop.finish = begin

    def _marked(self, inner: Callable, base: int, number: int) -> Callable:
        @functools.wraps(inner)
        def call(*args: Any, **kwargs: Any) -> Any:
            before, self.words[base] = self.words[base], number
            self.words[base + 2 + number] += 1
            try:
                return inner(*args, **kwargs)
            finally:
                self.words[base] = before

        return call


# Restores that are broken on purpose.


def _keep_all_lines() -> None:
    init = loop.RunLog.__init__

    def keep_all(self: loop.RunLog, folder: Path, step: int, tensorboard: bool, rows: int | None = None) -> None:
        init(self, folder, 10**9, tensorboard)

    loop.RunLog.__init__ = keep_all


BROKEN: dict[str, Callable[[], None]] = {
    "generators not put back": lambda: setattr(loop, "set_random_state", lambda *_: None),
    "optimizer not put back": lambda: setattr(checkpoint_state, "load_optimizer_tensors", lambda *_: None),
    "later metrics lines kept": _keep_all_lines,
}


def _die_after_a_line() -> None:
    """Die with a line in the metrics that no checkpoint has seen."""
    step = TrainingStep.__call__

    def step_then_die(self: TrainingStep, number: int, *rest: Any, **more: Any) -> None:
        step(self, number, *rest, **more)
        if number == CONTROL_KILL:
            loop.RunLog.write = _after(loop.RunLog.write, lambda: os.kill(os.getpid(), signal.SIGKILL))

    TrainingStep.__call__ = step_then_die  # type: ignore[method-assign]


def _after(inner: Callable, then: Callable[[], None]) -> Callable:
    def call(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        then()

    return call


# Lives.


@dataclass(frozen=True)
class Kill:
    """When and what to kill.

    Attributes:
        ranks: the processes.
        seconds: from the start, or from the phase on.
        phase: wait until any process enters this for the `entry`-th time.
        workers_too: kill the loader workers with their process; else they are left to notice.
    """

    ranks: tuple[int, ...]
    seconds: float
    phase: str | None = None
    entry: int = 1
    workers_too: bool = True

    def is_due(self, started: float, marker: Marker) -> bool:
        """Return whether the time to wait before `seconds` is over."""
        if self.phase is not None:
            return marker.entries(self.phase) >= self.entry
        return time.monotonic() - started >= self.seconds


@dataclass
class Ending:
    """How a life ended: in which phase it was killed, if it was, and what was wrong with it otherwise."""

    killed_in: str | None
    began_at: int | None
    problem: str | None
    seconds: float


def draw_kill(rng: random.Random, processes: int, seconds: float) -> Kill:
    """Draw a kill for a run that takes so many seconds."""
    ranks = tuple(rng.sample(range(processes), rng.randint(1, processes)))
    workers_too = rng.random() < 0.5
    if rng.random() < 0.5:
        return Kill(ranks, rng.uniform(0, seconds), workers_too=workers_too)
    seconds = 0.02 * rng.random() ** 4  # most phases last a millisecond or few
    return Kill(ranks, seconds, rng.choice(AIMED), rng.choice((1, 1, 2, 3)), workers_too)


def live(
    recipe: Recipe,
    folder: Path,
    processes: int,
    kill: Kill | None = None,
    change: Callable[[], None] | None = None,
) -> Ending:
    """Start a run or go on with it, in processes of its own, until its end or its death.

    Args:
        recipe: of the run.
        folder: of the run; what it prints goes beside it.
        processes: how many.
        kill: when and what to kill.
        change: what each process does before it trains; it may kill itself.
    """
    started, marker = time.monotonic(), Marker(processes)
    pids = _start(recipe, folder, processes, marker, change)
    LEFT.extend(pids)
    codes: dict[int, int] = {}
    killed_in = problem = died_at = None
    while len(codes) < processes:
        _collect(pids, codes)
        now = time.monotonic()
        if kill is not None and kill.is_due(started, marker):
            killed_in = _strike(kill, pids, codes, marker)
            kill = None
        if any(codes.values()) and len(codes) < processes:
            if died_at is None:
                died_at = now
                _signal_rest(pids, codes, signal.SIGTERM)
            elif now - died_at > GRACE:
                _signal_rest(pids, codes, signal.SIGKILL)
        if now - started > HANGS:
            problem = "hangs in " + ", ".join(marker.phase(rank) for rank in range(processes) if rank not in codes)
            _signal_rest(pids, codes, signal.SIGKILL)
        time.sleep(POLL)
    if killed_in is None and problem is None and any(codes.values()):
        by_itself = change is not None and set(codes.values()) == {-signal.SIGKILL}
        problem = None if by_itself else f"ended with {codes}: {_tail(folder)}"
    return Ending(killed_in, marker.began_at(0), problem, time.monotonic() - started)


def _start(
    recipe: Recipe, folder: Path, processes: int, marker: Marker, change: Callable[[], None] | None
) -> list[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [_fork(recipe, folder, rank, processes, port, marker, change) for rank in range(processes)]


def _strike(kill: Kill, pids: list[int], codes: dict[int, int], marker: Marker) -> str | None:
    """Kill; return in which phase the first process was that died of it, or None if all had ended before."""
    if kill.phase is not None:
        time.sleep(kill.seconds)
    for rank in kill.ranks:
        if rank not in codes:
            (os.killpg if kill.workers_too else os.kill)(pids[rank], signal.SIGKILL)
    while any(rank not in codes for rank in kill.ranks):
        time.sleep(POLL)
        _collect(pids, codes)
    return next((marker.phase(rank) for rank in kill.ranks if codes[rank] == -signal.SIGKILL), None)


def _collect(pids: list[int], codes: dict[int, int]) -> None:
    for rank, pid in enumerate(pids):
        if rank not in codes:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[rank] = os.waitstatus_to_exitcode(status)


LEFT: list[int] = []
"""Process groups in which loader workers may be left."""


def bury() -> None:
    """Kill what is left of former lives."""
    while LEFT:
        with suppress(ProcessLookupError):
            os.killpg(LEFT.pop(), signal.SIGKILL)


def _fork(
    recipe: Recipe,
    folder: Path,
    rank: int,
    processes: int,
    port: int,
    marker: Marker,
    change: Callable[[], None] | None,
) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with suppress(OSError):  # it has done so itself
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        output = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if processes > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            os.environ.update({name: str(value) for name, value in (place | {"MASTER_PORT": port}).items()})
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        marker.install(rank)
        if change is not None:
            change()
        loop.train(recipe, folder, resume=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _signal_rest(pids: list[int], codes: dict[int, int], number: int) -> None:
    for rank, pid in enumerate(pids):
        if rank not in codes:
            (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)


def _tail(folder: Path) -> str:
    return " | ".join(folder.with_suffix(".log").read_text(errors="replace").splitlines()[-4:])


# Chaos.


@dataclass
class Outcome:
    """What came of all the kills."""

    kills: Counter = field(default_factory=Counter)  # by phase and number of processes
    alone: int = 0
    runs: int = 0
    resumes: int = 0
    unseen: list[str] = field(default_factory=list)  # broken restores that the comparison did not see
    problems: list[str] = field(default_factory=list)


def with_workers(recipe: Recipe, workers: int) -> Recipe:
    """Return the recipe with another number of loader workers."""
    return replace(recipe, data=replace(recipe.data, workers=workers))


def undisturbed(recipe: Recipe, folder: Path, processes: int) -> float:
    """Train without a kill and return the seconds it took."""
    ending = live(recipe, folder, processes)
    if ending.problem is not None:
        raise SystemExit(f"a run without a kill {ending.problem}")
    return ending.seconds


def controls(recipe: Recipe, root: Path, expected: Path, outcome: Outcome) -> Iterator[str]:
    """Kill a run after a line that no checkpoint has seen; resume copies of it, broken and whole; say what is seen."""
    killed = root / "killed"
    live(recipe, killed, 1, change=_die_after_a_line)
    for name, change in {"whole": None, **BROKEN}.items():
        folder = root / name.replace(" ", "-")
        shutil.copytree(killed, folder)
        ending = live(recipe, folder, 1, change=change)
        if ending.problem is not None or ending.began_at != CONTROL_KILL:
            outcome.problems.append(f"control, {name}: began at {ending.began_at}, {ending.problem}")
        found = differences(folder, expected)
        if change is None:
            outcome.problems += [f"control, {name}: {one}" for one in found]
        elif not found:
            outcome.unseen.append(name)
        yield f"control, {name}: {found[0] if found else 'no difference'}"


def one_run(
    rng: random.Random,
    recipe: Recipe,
    folder: Path,
    expected: Path,
    seconds: float,
    processes: int,
    most: int,
    outcome: Outcome,
) -> None:
    """Kill a run up to `most` times, let it come to its end, and compare it."""
    outcome.runs += 1
    for left in reversed(range(most + 1)):
        workers = rng.choice((0, 2))
        kill = draw_kill(rng, processes, seconds) if left else None
        newest = max((int(path.name[5:]) for path in list_checkpoints(folder / "checkpoints")), default=0)
        ending = live(with_workers(recipe, workers), folder, processes, kill)
        if ending.problem is not None:
            outcome.problems.append(f"{folder.name}: {ending.problem}")
            return
        if ending.began_at is not None and ending.began_at != newest:
            outcome.problems.append(f"{folder.name}: began at step {ending.began_at}, saved was {newest}")
        if ending.killed_in is None:
            break
        outcome.kills[ending.killed_in, processes] += 1
        outcome.alone += bool(workers) and kill is not None and not kill.workers_too
        outcome.resumes += 1
    bury()
    found = differences(folder, expected)
    outcome.problems += [f"{folder.name}: {one}" for one in found]
    if not found:
        shutil.rmtree(folder)


def report(outcome: Outcome, processes: list[int], seconds: float) -> tuple[list[str], int]:
    """Return lines that say what came of it, and the exit code."""
    total = outcome.kills.total()
    lines = [f"{'killed in':<22}" + "".join(f"{f'{count} process' + 'es' * (count > 1):>14}" for count in processes)]
    lines += [f"{phase:<22}" + "".join(f"{outcome.kills[phase, one]:>14}" for one in processes) for phase in NAMES]
    lines += [f"difference: {problem}" for problem in outcome.problems[:20]]
    lines += [f"not noticed: {name}" for name in outcome.unseen]
    lines.append(
        f"{total} kills ({outcome.alone} of them left the loader workers behind), {outcome.runs} runs, "
        f"{outcome.resumes} resumes, {len(outcome.problems)} differences, {seconds:.0f} s"
    )
    return lines, 1 if outcome.problems or outcome.unseen else 0


def machine() -> str:
    """Return what a result depends on, in a line."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    versions = ", ".join(
        f"{package} {metadata.version(package)}" for package in ("torch", "timm", "numpy", "safetensors")
    )
    return f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, {name}; {platform.system()}"


def main(arguments: list[str] | None = None) -> int:
    """Kill and compare; return 1 if anything differs or a broken restore goes unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--log", type=Path, default=Path("runs/chaos.txt"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # threads do not survive a fork
    started, rng, outcome = time.monotonic(), random.Random(asked.seed), Outcome()
    asked.log.parent.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    with asked.log.open("w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        chosen = " ".join(map(str, asked.processes))
        say(f"python scripts/chaos.py --kills {asked.kills} --seed {asked.seed} --processes {chosen}")
        say(machine())
        recipe = tiny_recipe(write_images(root / "images"))
        expected = {count: root / f"undisturbed-{count}" for count in asked.processes}
        seconds = {count: undisturbed(recipe, folder, count) for count, folder in expected.items()}
        for count in asked.processes:
            say(f"undisturbed: {STEPS} steps, processes {count}: {seconds[count]:.1f} s")
        for line in controls(recipe, root, expected[1], outcome) if 1 in expected else ():
            say(line)
        while (done := outcome.kills.total()) < asked.kills:
            count = asked.processes[outcome.runs % len(asked.processes)]
            most = min(rng.randint(1, 5), asked.kills - done)
            one_run(rng, recipe, root / f"run-{outcome.runs}", expected[count], seconds[count], count, most, outcome)
            if (total := outcome.kills.total()) // 25 > done // 25:
                say(f"{total} kills, {len(outcome.problems)} differences, {time.monotonic() - started:.0f} s")
        lines, code = report(outcome, asked.processes, time.monotonic() - started)
        for line in lines:
            say(line)
    if code == 0:
        shutil.rmtree(root)
    else:
        print(f"what is left lies in {root}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
