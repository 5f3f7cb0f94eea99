"""The loss of a mixed batch against dense soft targets: time and peak memory of forward and backward.

    python benchmarks/loss.py          batch 128; 10, 1,000 and 21,841 classes, on the CPU
    python benchmarks/loss.py --gpu    batch 1024, on the GPU

    transmix        MixedCrossEntropy: labels stay pairs of classes with their weights
    timm            timm's mixup_target and SoftTargetCrossEntropy
    torch           the same targets and torch's cross_entropy
    timm, loss alone   the targets lie there already: what timm's loss costs without making them

From logits (B, K) that require a gradient, to that gradient. Peak memory is what is held at most beyond the logits: the
gradient, which everyone needs, targets, and what is kept or passes on the way (see memory.py for how it is counted).
memory_ratio is the variant's peak over the peer's; grads is the peak in units of one (B, K) float32 matrix.
"""

from collections.abc import Callable, Sequence

import torch
from memory import peak_bytes
from timing import Report, flags, parse, rows, take_turns
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional as F
from ways import SMOOTHING

from transmix import Mixed, MixedCrossEntropy

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def mixed_labels(batch: int, classes: int, device: str) -> Mixed:
    """Return labels of a flipped batch with a weight for every row; its images are empty."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    lam = torch.rand(batch, generator=generator).to(device)
    return Mixed(torch.empty(batch, 0, 1, 1), labels, torch.arange(batch - 1, -1, -1, device=device), lam, lam)


def variants(logits: Tensor, mixed: Mixed) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed: from the leaf `logits` to its gradient, which each call returns and takes away again."""
    classes = logits.shape[1]
    ours, theirs = MixedCrossEntropy(SMOOTHING), SoftTargetCrossEntropy()

    def targets() -> Tensor:
        return mixup_target(mixed.labels, classes, mixed.lam[:, None], SMOOTHING)

    lying = targets()
    losses = {
        "transmix": lambda: ours(logits, mixed),
        "timm": lambda: theirs(logits.float(), targets()),
        "torch": lambda: F.cross_entropy(logits.float(), targets()),
        "timm, loss alone": lambda: theirs(logits.float(), lying),
    }

    def gradient(loss: Callable[[], Tensor]) -> Tensor:
        loss().backward()
        found, logits.grad = logits.grad, None
        assert found is not None
        return found

    return {name: lambda loss=loss: gradient(loss) for name, loss in losses.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=21)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 21841])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES, help="of the logits")
    parser.add_argument("--calls", type=int, default=2, help="calls in a turn")
    arguments = parse(parser, argv, {"batch": 1024, "calls": 10, "dtypes": ["float32", "bf16"]})
    report = Report(__file__, arguments, argv)
    for dtype in arguments.dtypes:
        for classes in arguments.classes:
            torch.manual_seed(0)
            logits = torch.randn(arguments.batch, classes, device=arguments.device, dtype=DTYPES[dtype])
            logits.requires_grad_()
            turns = variants(logits, mixed_labels(arguments.batch, classes, arguments.device))
            times = take_turns(turns, arguments.rounds, calls=arguments.calls, device=arguments.device)
            peaks = {name: peak_bytes(run, arguments.device) for name, run in turns.items()}
            matrix = 4 * arguments.batch * classes
            report.add(
                [
                    row | {"peak_mb": peak / 1e6, "memory_ratio": peak / peaks["timm"], "grads": peak / matrix}
                    for row in rows(f"{classes} classes, batch {arguments.batch}, {dtype}", times, "timm")
                    for peak in [peaks[row["variant"]]]
                ],
                {"peak_mb": ".2f", "memory_ratio": ".2f", "grads": ".2f"},
            )


if __name__ == "__main__":
    main()
