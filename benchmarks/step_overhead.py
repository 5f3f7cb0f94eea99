"""Step time and peak memory of TransMix over CutMix and over no mixing, beside the hand-written ways.

    python benchmarks/step_overhead.py                    DeiT-Tiny, 224 pixels, batch 16, on the CPU
    python benchmarks/step_overhead.py --cases xcit_nano_12_p16_224:16 deit_tiny_patch16_224:16:compiled
    python benchmarks/step_overhead.py --gpu              bf16: DeiT-Ti/S/B, CaiT, XCiT, ViT-L; batch 64 to 1024

A case is MODEL:BATCH, with :compiled for torch.compile. The ways to train (see ways.py) take turns within one run, on
copies of one model with the same images and boxes; the table gives the median step time and, round by round, its ratio
to CutMix's. Peak memory is weights and optimizer state and the most that a step adds: on a GPU by torch's allocator, on
a CPU by counting live tensors (see memory.py; not for compiled code). bf16 on a GPU, float32 on a CPU.
"""

import gc
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from memory import peak_bytes
from timing import Report, flags, parse, ratios, rows, spread, take_turns
from ways import WAYS, Way, batch_for, ways

GPU_CASES = [
    "deit_small_patch16_224:256:compiled",
    "deit_small_patch16_224:256",
    "deit_tiny_patch16_224:1024",
    "deit_base_patch16_224:256",
    "deit_small_patch16_224:64",
    "cait_xxs24_224:128",
    "xcit_small_12_p16_224:128",
    "vit_large_patch16_224:64",
    "deit_small_patch16_224:512",
]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=15)
    parser.add_argument("--cases", nargs="+", default=["deit_tiny_patch16_224:16"], help="MODEL:BATCH[:compiled] ...")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--side", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    arguments = parse(parser, argv, {"cases": GPU_CASES, "steps": 5, "rounds": 12})
    if "cutmix" not in arguments.ways:
        parser.error("--ways must include cutmix, which the others are compared with")
    report = Report(__file__, arguments, argv)
    for case in arguments.cases:
        try:
            report.add(measure(case, arguments), {"over_none": ".3f", "peak_mb": ".0f", "memory_ratio": ".3f"})
        except torch.OutOfMemoryError:
            print(f"{case}: left out, the GPU's memory is too small for it", flush=True)
        gc.collect()  # a model that is read refers to itself
        if case.endswith(":compiled"):
            torch.compiler.reset()  # past a number of versions of the same code, torch would go on in eager mode


def measure(case: str, arguments: Namespace) -> list[dict[str, Any]]:
    """Return the rows of one case."""
    model, batch, compiled = (*case.split(":"), "")[:3]
    options = {"img_size": arguments.side} if arguments.side != 224 else {}
    settings = {"compiled": compiled == "compiled", "bf16": arguments.device == "cuda"}
    made = ways(arguments.ways, model, arguments.device, options, **settings)
    images, labels = batch_for(int(batch), arguments.side, 1000, arguments.device)
    turns = {name: lambda way=way: way.step(images, labels) for name, way in made.items()}
    times = take_turns(turns, arguments.rounds, calls=arguments.steps, device=arguments.device)
    return [
        row | _over_none(times, row["variant"]) | _memory(made, row["variant"], images, labels)
        for row in rows(f"{model} batch {batch} {compiled}".strip(), times, "cutmix")
    ]


def _over_none(times: dict[str, list[float]], name: str) -> dict[str, float]:
    return {"over_none": spread(ratios(times, name, "none"))[0]} if "none" in times else {}


def _memory(made: dict[str, Way], name: str, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    if images.device.type == "cpu" and hasattr(made[name].model, "_orig_mod"):
        return {}
    peak, peer = (
        way.state_bytes() + peak_bytes(lambda way=way: way.step(images, labels), images.device.type)
        for way in (made[name], made["cutmix"])
    )
    return {"peak_mb": peak / 1e6, "memory_ratio": peak / peer}


if __name__ == "__main__":
    main()
