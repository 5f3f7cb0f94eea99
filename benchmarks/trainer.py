"""The whole trainer against timm's train.py: same model, images, batch, workers, optimizer and augmentation.

    git clone https://github.com/huggingface/pytorch-image-models TIMM
    python benchmarks/trainer.py --timm-checkout TIMM          DeiT-Tiny, 224 pixels, batch 16, on the CPU
    python benchmarks/trainer.py --timm-checkout TIMM --gpu    DeiT-Small, bf16, compiled, batch 256, 16 workers

    timm             Mixup and CutMix
    transmix cutmix  our trainer with the same, --mix mixup+cutmix
    transmix         our trainer with labels by attention
    transmix cached  the same with the training images decoded once and kept in memory, which timm does not offer

Each takes one turn a round, as a process of its own on JPEG files made for the run (or --data). Images per second over
the steady part: from the first logged step after --warm-up to the last, by one clock that watches the logs of all.
RandAugment, random erasing, Mixup/CutMix, fused AdamW, gradients clipped to norm 1, no EMA, in all of them. timm's own
code runs from its checkout (Apache-2.0), nothing of it is kept. Without --timm-checkout ours run alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from photographs import write_folders
from timing import Report, flags, parse, rows

from transmix.runs.folder import commit

OURS = {"transmix cutmix": ("mixup+cutmix", 0), "transmix": ("transmix", 0), "transmix cached": ("transmix", 64)}
"""Our variants: how they mix, and how many GB of decoded images they may keep."""

TIMM_STEP = re.compile(r"Train: 0 \[ *(\d+)/")
OUR_STEP = re.compile(r'"kind": "train", "step": (\d+)')
OUTPUT = "output.txt"
POLICY = "rand-m9-mstd0.5-inc1"


def timm_command(arguments: Namespace, data: Path, out: Path) -> list[str]:
    """Return how timm's train.py is called."""
    options = {
        "data-dir": data, "model": arguments.model, "num-classes": arguments.classes, "img-size": arguments.side,
        "batch-size": arguments.batch, "epochs": 1, "warmup-epochs": 0, "opt": "adamw", "lr": 1e-3,
        "weight-decay": 0.05, "clip-grad": 1.0, "aa": POLICY, "reprob": 0.25, "train-interpolation": "bicubic",
        "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "workers": arguments.workers, "log-interval": arguments.every,
        "device": arguments.device, "output": out,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--opt-kwargs", "fused=True"]
    words += ["--model-kwargs", f"img_size={arguments.side}", *arguments.model_options]  # --img-size is the data's
    if arguments.device == "cuda":
        words += ["--amp", "--amp-dtype", "bfloat16", "--torchcompile", "--pin-mem"]
    return [sys.executable, str(arguments.timm_checkout / "train.py"), *words]


def our_settings(arguments: Namespace, data: Path, out: Path, mix: str, cache_gb: float) -> dict[str, Any]:
    """Return the sections of our recipe."""
    on_gpu = arguments.device == "cuda"
    options = {name: json.loads(value) for name, value in (word.split("=") for word in arguments.model_options)}
    return {
        "out": str(out),
        "Data": {
            "data": str(data), "image_size": arguments.side, "workers": arguments.workers, "cache_gb": cache_gb
        },
        "Augmentation": {"rand_augment": POLICY, "random_erasing": 0.25},
        "Model": {
            "model": arguments.model, "model_options": options, "amp": "bf16" if on_gpu else "none", "compile": on_gpu
        },
        "Mixing": {"mix": mix, "switch_prob": 0.5},
        "Optimization": {
            "epochs": 1, "warmup_epochs": 0, "batch_size": arguments.batch, "lr": 1e-3, "clip_grad": 1.0
        },
        "Run": {"device": arguments.device, "log_every": arguments.every},
    }  # fmt: skip


def train_ours(settings: dict[str, Any]) -> None:
    """Train as `our_settings` say; the child process's part."""
    from transmix.recipes import settings as sections
    from transmix.training.loop import train

    out = settings.pop("out")
    made = {name.lower(): getattr(sections, name)(**values) for name, values in settings.items()}
    train(sections.Recipe(**made), out)


def images_per_second(
    command: list[str], out: Path, watched: str, step: re.Pattern[str], arguments: Namespace, offset: int = 0
) -> float:
    """Run a trainer until its last step is in the log, and return its speed over the steady part.

    Args:
        command: of the trainer.
        out: folder for this turn.
        watched: the file in it in which steps appear; OUTPUT is what the trainer prints.
        step: finds the numbers of steps in it.
        arguments: of this script.
        offset: what is to be added to those numbers, to have the steps done.

    Raises:
        SystemExit: the trainer stopped before its last step; with the end of its output.
    """
    out.mkdir()
    output = out / OUTPUT
    env = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads or 1), "PYTHONUNBUFFERED": "1"}
    seen: dict[int, float] = {}
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
    try:
        while arguments.steps not in seen:
            ended = process.poll() is not None
            log = out / watched
            for found in step.finditer(log.read_text(errors="replace") if log.exists() else ""):
                seen.setdefault(int(found[1]) + offset, time.perf_counter())
            if ended and arguments.steps not in seen:
                raise SystemExit(f"{' '.join(command)}\nstopped early:\n{output.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()
    first = min(done for done in seen if done >= arguments.warm_up)
    return (arguments.steps - first) * arguments.batch / (seen[arguments.steps] - seen[first])


def measure(variant: str, arguments: Namespace, data: Path, out: Path) -> float:
    """Return the images per second of one turn of a variant."""
    if variant == "timm":
        return images_per_second(timm_command(arguments, data, out), out, OUTPUT, TIMM_STEP, arguments, offset=1)
    settings = our_settings(arguments, data, out / "run", *OURS[variant])
    command = [sys.executable, __file__, "--train", json.dumps(settings)]
    return images_per_second(command, out, "run/metrics.jsonl", OUR_STEP, arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--train"]:
        train_ours(json.loads(words[1]))
        return
    parser = flags(__doc__, rounds=3)
    parser.add_argument("--timm-checkout", type=Path, help="a checkout of huggingface/pytorch-image-models")
    parser.add_argument("--data", type=Path, help="class folders with at least steps x batch training images")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--model-options", nargs="+", default=[], metavar="NAME=NUMBER", help="of timm.create_model")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--stored", type=int, nargs=2, default=[375, 500], help="height and width of the JPEG files")
    parser.add_argument("--classes", type=int, default=10, help="class folders in the data")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--warm-up", type=int, default=4, help="steps of a turn that do not count")
    parser.add_argument("--every", type=int, default=4, help="steps between two lines of the log")
    parser.add_argument("--variants", nargs="+", default=["timm", *OURS], choices=["timm", *OURS])
    sizes = {"model": "deit_small_patch16_224", "batch": 256, "workers": 15, "steps": 160, "warm_up": 40, "every": 10}
    arguments = parse(parser, argv, {**sizes, "rounds": 2})
    if arguments.timm_checkout is None:
        arguments.variants = [name for name in arguments.variants if name != "timm"]
    elif not (arguments.timm_checkout / "train.py").is_file():
        parser.error(f"no train.py in {arguments.timm_checkout}; give a checkout of huggingface/pytorch-image-models")
    if arguments.warm_up <= 2 * arguments.workers:
        parser.error(f"--warm-up must be more than the 2 x {arguments.workers} batches that workers have ready by then")
    arguments.timm_checkout = arguments.timm_checkout and arguments.timm_checkout.resolve()
    report = Report(__file__, arguments, argv)
    report.about["threads"] = arguments.threads or 1  # of the trainers
    if arguments.timm_checkout is not None:
        version = (arguments.timm_checkout / "timm" / "version.py").read_text().split("'")[1]
        report.about["timm_checkout"] = {"version": version, "commit": commit(arguments.timm_checkout)}
    peer = arguments.variants[0]
    rates: dict[str, list[float]] = {name: [] for name in arguments.variants}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = dict(zip(("height", "width"), arguments.stored, strict=True))
        data = arguments.data or write_folders(
            root / "data", arguments.steps * arguments.batch, classes=arguments.classes, **size
        )
        for turn in range(arguments.rounds):
            for name in arguments.variants[turn:] + arguments.variants[:turn]:
                rates[name].append(measure(name, arguments, data, root / f"{name}-{turn}"))
                print(f"round {turn + 1}: {name} {rates[name][-1]:.1f} images/s", flush=True)
    times = {name: [arguments.batch / rate for rate in found] for name, found in rates.items()}
    case = f"{arguments.model}, {arguments.side} pixels, batch {arguments.batch}"
    report.add(
        [row | {"images_per_second": 1e3 * arguments.batch / row["median_ms"]} for row in rows(case, times, peer)],
        {"images_per_second": ".1f"},
    )


if __name__ == "__main__":
    main()
