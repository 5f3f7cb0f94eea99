"""One training step on a GPU, taken apart: model FLOPs utilisation, images per second, and what TransMix's parts cost.

    python benchmarks/gpu_step.py                             DeiT-Small, 224 pixels, bf16, compiled, batch 256
    python benchmarks/gpu_step.py --no-compile --batch 1024
    python benchmarks/gpu_step.py --device cpu --side 32 --batch 2 --matrix 64     tries every part out anywhere

    matrix rate   a bf16 product of two square matrices: what the device gives at best
    step          of TransMix and CutMix on images that lie on the device; images/s, and model FLOPs utilisation: the
                  FLOPs of forward and backward of the model, counted with attention in full, x images/s / matrix rate
    parts         what mixing, the row of attention, the label rule, the loss, and bringing uint8 images to the device
                  and normalising them cost, each alone; share is of a TransMix step
    kernels       torch's profiler over TransMix steps: the operators that take most of the device's time

Without a GPU it says so and measures nothing, unless told --device cpu.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from timing import Report, flags, parse, rows, spread, take_turns
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from ways import SMOOTHING, Way, batch_for, ways

from transmix import MixedCrossEntropy, Mixer, attention_labels
from transmix.attention.row import first_row, weights_of_sdpa
from transmix.models.build import normaliser


def matrix_rate(side: int, rounds: int, device: str) -> float:
    """Return the floating-point operations a second of a bf16 product of two (side, side) matrices of noise."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = take_turns({"product": lambda: left @ right}, rounds, calls=10, device=device)["product"]
    return 2 * side**3 / spread(times)[0]


def flops_per_image(model: str, side: int) -> int:
    """Return the floating-point operations of forward and backward for one image; a multiply-add counts as two."""
    net = timm.create_model(model, img_size=side).train()
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        F.cross_entropy(net(torch.zeros(1, 3, side, side)), torch.zeros(1, dtype=torch.int64)).backward()
    return counted.get_total_flops()


def parts(arguments: argparse.Namespace, model: torch.nn.Module) -> dict[str, Callable[[], object]]:
    """Return what is timed alone: the parts of a step that are not the model, on tensors of the model's shapes."""
    device, batch, side, classes = arguments.device, arguments.batch, arguments.side, 1000
    images, labels = batch_for(batch, side, classes, device)
    mixer = Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(0))
    mixed = mixer(images, labels)
    attend: Any = model.blocks[-1].attn  # type: ignore[index]
    tokens = model.num_prefix_tokens + (side // 16) ** 2  # type: ignore[operator]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = (batch, attend.num_heads, tokens, attend.head_dim)
    query, key = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    row = torch.rand(batch, (side // 16) ** 2, device=device)
    logits = torch.randn(batch, classes, device=device, dtype=dtype, requires_grad=True)
    criterion = MixedCrossEntropy(SMOOTHING)
    relabelled = attention_labels(mixed, row)
    stored = torch.zeros(batch, 3, side, side, dtype=torch.uint8)
    stored = stored.pin_memory() if device == "cuda" else stored
    normalise = normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), torch.device(device), channels_last=False)

    def loss() -> None:
        criterion(logits, relabelled).backward()
        logits.grad = None

    return {
        "mixing": lambda: mixer(images, labels),
        "row of attention": lambda: first_row(weights_of_sdpa(query, key, key, queries=1)),
        "label rule": lambda: attention_labels(mixed, row),
        "loss, forward and backward": loss,
        "to device and normalise": lambda: normalise(stored),
    }


def kernels(way: Way, images: Tensor, labels: Tensor, most: int) -> list[dict[str, Any]]:
    """Return the operators that take most of the device's own time over three steps, and their share of it."""
    on_gpu = images.is_cuda
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as seen:
        for _ in range(3):
            way.step(images, labels)
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU  # a kernel's time also stands beside what launched it
    events = [event for event in seen.key_averages() if event.device_type == kind and not event.is_user_annotation]
    found = sorted(events, key=lambda event: -getattr(event, own))
    total = sum(getattr(event, own) for event in found)
    return [
        {
            "case": "kernels",
            "variant": event.key[:60],
            "median_ms": getattr(event, own) / 3e3,
            "share": getattr(event, own) / total,
        }
        for event in found[:most]
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=12)
    parser.set_defaults(device="cuda")
    parser.add_argument("--model", default="deit_small_patch16_224", help="a timm ViT with patches of 16 pixels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (on a GPU, yes)")
    parser.add_argument("--kernels", type=int, default=12, help="how many operators to list")
    if parser.parse_known_args(argv)[0].device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device here (--device cpu tries every part out)")
        return
    arguments = parse(parser, argv, {})
    device, batch = arguments.device, arguments.batch
    compiled = device == "cuda" if arguments.compile is None else arguments.compile
    report = Report(__file__, arguments, argv)
    rate = matrix_rate(arguments.matrix, arguments.rounds, device)
    report.add(
        [{"case": "matrix rate", "variant": f"bf16, side {arguments.matrix}", "tflops": rate / 1e12}],
        {"tflops": ".1f"},
    )

    options = {"img_size": arguments.side}
    made = ways(("cutmix", "transmix"), arguments.model, device, options, compiled=compiled, bf16=device == "cuda")
    images, labels = batch_for(batch, arguments.side, 1000, device)
    turns = {name: lambda way=way: way.step(images, labels) for name, way in made.items()}
    times = take_turns(turns, arguments.rounds, calls=arguments.steps, warm_up=3, device=device)
    each = flops_per_image(arguments.model, arguments.side)
    step_rows = rows(f"step, batch {batch}{', compiled' * compiled}", times, "cutmix")
    for row in step_rows:
        row["images_per_second"] = 1e3 * batch / row["median_ms"]
        row["mfu"] = each * row["images_per_second"] / rate
    report.add(step_rows, {"images_per_second": ".0f", "mfu": ".3f"})

    whole = spread(times["transmix"])[0]
    pieces = parts(arguments, timm.create_model(arguments.model, **options))
    alone = take_turns(pieces, arguments.rounds, calls=10, device=device)
    report.add(
        [
            {"case": "parts", "variant": name, "median_ms": 1e3 * (middle := spread(found)[0]), "share": middle / whole}
            for name, found in alone.items()
        ],
        {"share": ".4f"},
    )
    report.add(kernels(made["transmix"], images, labels, arguments.kernels), {"share": ".4f"})


if __name__ == "__main__":
    main()
