"""All speed benchmarks in one go, and their results as one table at the end.

    python benchmarks/all.py                        the CPU set (make bench), about five minutes on two idle cores
    python benchmarks/all.py --gpu --out FOLDER     the GPU set, under nine minutes
    python benchmarks/all.py --timm-checkout TIMM   also against timm's train.py and validate.py

Each script runs as a process of its own and writes FOLDER/NAME_cpu.json (or _gpu). What has not ended by --minutes is
stopped, and the tables it had finished count. For other sizes run the scripts one by one.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

CPU = {
    "step_overhead": [],
    "methods": [],
    "loss": [],
    "mixing": [],
    "pipeline": [],
    "on_device": [],
    "scaling": ["--threads", "1"],
}
GPU = {
    "gpu_step": [],
    "step_overhead": ["--gpu", "--rounds", "8"],
    "methods": ["--gpu"],
    "loss": ["--gpu"],
    "mixing": ["--gpu", "--modes", "batch"],
    "scaling": ["--gpu", "--rounds", "7"],
    "pipeline": ["--gpu"],
    "on_device": ["--gpu"],
}
"""Scripts and their flags, the most wanted first."""

LEAST = 5
"""Seconds that must be left for a script to be started."""


def run_all(scripts: dict[str, list[str]], paths: dict[str, Path], minutes: float) -> None:
    """Run scripts one after another until the time is up; each writes its path."""
    end = time.perf_counter() + 60 * minutes
    for name, words in scripts.items():
        left = end - time.perf_counter()
        if left < LEAST:
            print(f"== {name}: not run, the {minutes:g} minutes are up")
            continue
        print(f"== {name} {' '.join(words)}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *words, "--json", str(paths[name])]
        started = time.perf_counter()
        process = subprocess.Popen(command, start_new_session=True)
        try:
            code = process.wait(timeout=left)
            ended = "done" if code == 0 else f"FAILED with exit code {code}"
        except subprocess.TimeoutExpired:
            ended = "stopped, the time is up"
        finally:  # also on Ctrl-C
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its own processes too
                process.wait()
        print(f"== {name}: {ended} after {time.perf_counter() - started:.0f} s", flush=True)


def summary(found: dict[str, Any]) -> list[str]:
    """Return the results of one script, a line a case: the peer's time, and the others' ratios to it."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        cases.setdefault(row["case"], []).append(row)
    return [f"{found['benchmark']}: {case}: {'; '.join(map(_short, made))}" for case, made in cases.items()]


def _short(row: dict[str, Any]) -> str:
    words = [row["variant"]]
    if "ratio" in row and row["variant"] != row["peer"]:
        words.append(f"x{row['ratio']:.3f}")
    elif "median_ms" in row:
        words.append(f"{row['median_ms']:.3g} ms")
    known = {"images_per_second": "{:.0f}/s", "mfu": "MFU {:.3f}", "share": "share {:.4f}", "tflops": "{:.0f} TFLOP/s"}
    known |= {"memory_ratio": "mem x{:.2f}"}
    return " ".join(words + [form.format(row[key]) for key, form in known.items() if key in row])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the set and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="the GPU set")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the JSON files")
    parser.add_argument("--minutes", type=float, help="stop after so many (CPU 30, GPU 8.7)")
    parser.add_argument("--only", nargs="+", choices=sorted({*CPU, *GPU}), help="these scripts alone")
    parser.add_argument(
        "--timm-checkout", type=Path, help="also run trainer.py and evaluation.py against this checkout"
    )
    arguments = parser.parse_args(argv)
    scripts = dict(GPU if arguments.gpu else CPU)
    if arguments.only:
        scripts = {name: words for name, words in scripts.items() if name in arguments.only}
    if arguments.timm_checkout:
        flag = ["--gpu"] if arguments.gpu else []
        for name in ("trainer", "evaluation"):
            scripts[name] = [*flag, "--timm-checkout", str(arguments.timm_checkout)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    paths = {name: arguments.out / f"{name}_{'gpu' if arguments.gpu else 'cpu'}.json" for name in scripts}
    for path in paths.values():
        path.unlink(missing_ok=True)  # an older run's
    run_all(scripts, paths, arguments.minutes or (8.7 if arguments.gpu else 30))
    print("\n== all")
    for path in paths.values():
        if path.exists():
            print("\n".join(summary(json.loads(path.read_text()))))


if __name__ == "__main__":
    main()
