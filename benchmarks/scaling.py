"""How the cost of TransMix grows with classes, tokens, batch and processes: a step of TransMix over one of CutMix.

    python benchmarks/scaling.py          a ViT of 4 blocks, width 192, on the CPU
    python benchmarks/scaling.py --gpu    DeiT-Small, bf16, on the GPU

One thing grows at a time, the others stay at their first values. Processes are torch.distributed's (DDP over gloo, or
nccl with a GPU for each), each with its own batch; rank 0's times are shown. On one machine they share its cores: give
--threads such that processes x threads are no more.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timing import Report, flags, parse, rows, take_turns, wait
from torch.nn.parallel import DistributedDataParallel
from ways import batch_for, ways

NAMES = ("cutmix", "transmix", "reference")


def step_times(arguments: Namespace, classes: int, tokens: int, batch: int, wrap: Any = None) -> dict[str, list[float]]:
    """Return the seconds of a step, way by way, for a square grid of about `tokens` patches of 16 pixels."""
    grid = max(1, round(tokens**0.5))
    options = {"img_size": 16 * grid, "num_classes": classes, "depth": arguments.depth}
    device = arguments.device
    made = ways(NAMES, arguments.model, device, options, bf16=device == "cuda", wrap=wrap)
    images, labels = batch_for(batch, 16 * grid, classes, device)
    turns = {name: lambda way=way: way.step(images, labels) for name, way in made.items()}
    return take_turns(turns, arguments.rounds, calls=arguments.steps, device=device)


def in_processes(arguments: Namespace, processes: int) -> dict[str, list[float]]:
    """Return the seconds of a step in the first of so many processes.

    Raises:
        SystemExit: a process failed; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            **vars(arguments),
            "json": None,
            "meet": f"{folder}/meet",
            "times": f"{folder}/times",
            "size": processes,
        }
        command = [sys.executable, __file__, "--process", json.dumps(shared)]
        outputs = [Path(folder) / f"{rank}.txt" for rank in range(processes)]
        running = [
            subprocess.Popen(
                command, env={**os.environ, "RANK": str(rank)}, stdout=output.open("w"), stderr=subprocess.STDOUT
            )
            for rank, output in enumerate(outputs)
        ]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("\n".join(output.read_text()[-2000:] for output in outputs))
        return json.loads(Path(folder, "times").read_text())


def one_process(shared: dict[str, Any]) -> None:
    """Train as one of several processes; the child's part."""
    arguments, rank = Namespace(**shared), int(os.environ["RANK"])
    on_gpu = arguments.device == "cuda"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{arguments.meet}", rank=rank, world_size=arguments.size
    )
    classes, tokens, batch = arguments.classes[0], arguments.tokens[0], arguments.batches[0]
    times = step_times(arguments, classes, tokens, batch, wrap=DistributedDataParallel)
    wait(arguments.device)
    if rank == 0:
        Path(arguments.times).write_text(json.dumps(times))
    dist.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--process"]:
        one_process(json.loads(words[1]))
        return
    parser = flags(__doc__, rounds=9)
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="a timm model with patches of 16 pixels")
    parser.add_argument("--depth", type=int, default=4, help="blocks")
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 10, 21841])
    parser.add_argument("--tokens", type=int, nargs="+", default=[49, 16, 196, 576], help="patches")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 4, 64])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    gpu = {
        "model": "deit_small_patch16_224", "depth": 12, "tokens": [196, 49, 576, 784], "batches": [128, 32, 512],
        "steps": 5, "processes": list(range(1, torch.cuda.device_count() + 1)),
    }  # fmt: skip
    arguments = parse(parser, argv, gpu)
    report = Report(__file__, arguments, argv)
    first = {"classes": arguments.classes[0], "tokens": arguments.tokens[0], "batch": arguments.batches[0]}
    sweeps = {"classes": arguments.classes, "tokens": arguments.tokens, "batch": arguments.batches}
    for name, values in sweeps.items():
        for value in sorted(values):
            try:
                report.add(rows(f"{value} {name}", step_times(arguments, **{**first, name: value}), "cutmix"))
            except torch.OutOfMemoryError:
                print(f"{value} {name}: left out, the GPU's memory is too small for it", flush=True)
            gc.collect()  # a model that is read refers to itself
            if arguments.device == "cuda":
                torch.cuda.empty_cache()  # for the next size, and for other processes
    for processes in arguments.processes:
        report.add(rows(f"{processes} processes", in_processes(arguments, processes), "cutmix"))


if __name__ == "__main__":
    main()
