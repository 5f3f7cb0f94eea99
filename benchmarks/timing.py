"""What all benchmarks share: variants that take turns, ratios to a peer of the same run, a record of where it ran."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from transmix.runs.folder import commit

LIBRARIES = ("transmix", "torch", "torchvision", "timm", "numpy", "pillow")


def flags(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="sizes for a GPU, on the GPU; other flags still win")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="torch's CPU threads (as torch chooses)")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds in which every variant has a turn")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, gpu: Mapping[str, Any]) -> argparse.Namespace:
    """Parse a command line; under --gpu with the defaults in `gpu`. Sets torch's threads."""
    if parser.parse_known_args(argv)[0].gpu:
        parser.set_defaults(device="cuda", **gpu)
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; leave --gpu and --device cuda out")
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2: quartiles need them")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    calls: int = 1,
    warm_up: int = 2,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Time variants in turns within one process: A B C, then B C A, and so on, so that drift meets all alike.

    A turn is `calls` calls between two readings of the clock; on a GPU the device is waited for before each reading.

    Returns:
        Seconds per call of every variant, one number a round.
    """
    for run in variants.values():
        for _ in range(warm_up):
            run()
    names, times = list(variants), {name: [] for name in variants}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(variants[name], calls, device))
    return times


def seconds(run: Callable[[], object], calls: int = 1, device: str = "cpu") -> float:
    """Return the seconds that a call takes, over `calls` calls."""
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - started) / calls


def wait(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def spread(values: Sequence[float]) -> tuple[float, list[float]]:
    """Return the median and the lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, [low, high]


def ratios(times: Mapping[str, Sequence[float]], name: str, peer: str) -> list[float]:
    """Return the ratio of a variant's time to the peer's, round by round."""
    return [one / other for one, other in zip(times[name], times[peer], strict=True)]


def rows(case: str, times: Mapping[str, Sequence[float]], peer: str) -> list[dict[str, Any]]:
    """Return a row for every variant: median and quartiles of its time, and of its ratio to the peer's."""
    made = []
    for name, measured in times.items():
        middle, quartiles = spread([1e3 * value for value in measured])
        ratio, ratio_quartiles = spread(ratios(times, name, peer))
        row = {"case": case, "variant": name, "peer": peer, "median_ms": middle, "quartiles_ms": quartiles}
        made.append(row | {"ratio": ratio, "ratio_quartiles": ratio_quartiles})
    return made


class Report:
    """Collects rows, prints each table as soon as it is there, and writes all of them to a file after every table.

    Args:
        script: the benchmark's file.
        arguments: of the command line, written down as the settings.
        argv: the command line; None: the process's.
    """

    def __init__(self, script: str, arguments: argparse.Namespace, argv: Sequence[str] | None = None):
        self.path: Path | None = arguments.json
        self.rows: list[dict[str, Any]] = []
        settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "gpu")}
        words = sys.argv[1:] if argv is None else argv
        self.about = {
            "benchmark": Path(script).stem,
            "command": command(Path(script).stem, words),
            "settings": {name: value.name if isinstance(value, Path) else value for name, value in settings.items()},
            **where(arguments.device),
        }
        found = self.about
        print(f"{found['device']}, {found['threads']} threads, load {found['load_at_start']}, commit {found['commit']}")
        print(", ".join(f"{name} {version}" for name, version in found["versions"].items()), flush=True)

    def add(self, made: list[dict[str, Any]], columns: Mapping[str, str] | None = None) -> None:
        """Print rows as a table and write them down.

        Args:
            made: rows of one case or more.
            columns: more columns, a format for each key: `{"peak_mb": ".1f"}`.
        """
        print(table(made, columns or {}), flush=True)
        self.rows += made
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n")


def command(benchmark: str, words: Sequence[str]) -> str:
    """Return how a benchmark was called; of folders their names, where they lay here helps nobody."""
    return " ".join(["python", f"benchmarks/{benchmark}.py", *map(_without_folder, words)])


def where(device: str) -> dict[str, Any]:
    """Return what a time depends on besides the code: machine, threads, load, versions, commit."""
    on_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
        "commit": commit(Path(__file__).parents[1]),
    }


def processor() -> str:
    """Return the processor's name where Linux tells it, else its kind."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.machine()


def table(made: list[dict[str, Any]], columns: Mapping[str, str]) -> str:
    """Return rows as lines of text: time, ratio to the peer with its quartiles, and the columns asked for."""
    lines = [["case", "variant", "ms", "ratio", "quartiles", *columns]]
    for row in made:
        known = [row["case"], row["variant"], _number(row.get("median_ms"), ".3g" if _small(row) else ".1f")]
        low_high = row.get("ratio_quartiles")
        known += [_number(row.get("ratio"), ".3f"), f"{low_high[0]:.3f}-{low_high[1]:.3f}" if low_high else ""]
        lines.append(known + [_number(row.get(key), form) for key, form in columns.items()])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        "  ".join(
            cell.ljust(w) if at < 2 else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in aligned)


def _without_folder(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return option + equals + (Path(value).name if os.path.isabs(value) else value)


def _small(row: Mapping[str, Any]) -> bool:
    return (row.get("median_ms") or 0) < 10


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else str(value or "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
