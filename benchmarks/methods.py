"""Step time and peak memory of every method over CutMix's, on a plain ViT.

    python benchmarks/methods.py                   DeiT-Tiny, 224 pixels, batch 8, on the CPU
    python benchmarks/methods.py --gpu             bf16: DeiT-Small, batch 256
    python benchmarks/methods.py --methods snapmix tlalign
    python benchmarks/methods.py --methods cutmix switch clean-view --steps 8

Each method trains a copy of one model, with the same images, by its three lines; they take turns within one run. The
table gives the median step time, its ratio to CutMix's round by round, and the most that a step holds. `bound` is the
ratio that a method may have: one forward more, a third of a step, where it looks at the clean images, and 10 % for all
else. `switch` is Mixup or CutMix, half of the batches each, with labels by area; `clean-view` has the same batches, and
labels by each source's own attention in its unmixed image (labels="source"): a forward more for every second step, so
that a turn takes several steps.
"""

import gc
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from memory import peak_bytes
from timing import Report, flags, parse, rows, take_turns
from torch import Tensor
from ways import SMOOTHING, batch_for

from transmix import TransMix
from transmix.methods import NAMED

FORWARDS = {"smmix": 1, "tokenmix": 1, "attentivecutmix": 1, "snapmix": 1, "clean-view": 0.5}
"""Forwards that a method adds to a step, all of them of the guide."""

LABELS = {"cutmix": "area", "transmix": "attention", "switch": "area", "clean-view": "source"}
"""Label rule of the ways that are not named methods."""

METHODS = ("cutmix", "transmix", *NAMED)
CHOICES = (*METHODS, "switch", "clean-view")


class Step:
    """One way to train a copy of the model."""

    def __init__(self, name: str, arguments: Namespace):
        device, bf16 = arguments.device, arguments.device == "cuda"
        torch.manual_seed(0)
        with torch.device(device):
            self.model = timm.create_model(arguments.model, img_size=arguments.side).train()
        self.name, self.device, self.bf16 = name, device, bf16
        settings: dict[str, Any] = {"smoothing": SMOOTHING, "generator": torch.Generator().manual_seed(0)}
        if name in LABELS:
            mixing = {"mixup_alpha": 0.0} if name in METHODS else {"switch_prob": 0.5}
            self.transmix: TransMix = TransMix(self.model, labels=LABELS[name], **mixing, **settings)
        else:
            self.transmix = NAMED[name](self.model, **settings)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimizer step."""
        masks = {"foreground": images[:, 0] > 0} if "foreground" in self.transmix.rule.needs else {}
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            mixed = self.transmix.mix(images, labels, **masks)
            logits = self.model(mixed.images)
        self.transmix.loss(logits, mixed).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    """Return a row for every method."""
    images, labels = batch_for(arguments.batch, arguments.side, 1000, arguments.device)
    steps = {name: Step(name, arguments) for name in arguments.methods}
    turns: dict[str, Callable[[], object]] = {
        name: lambda step=step: step(images, labels) for name, step in steps.items()
    }
    times = take_turns(turns, arguments.rounds, calls=arguments.steps, device=arguments.device)
    peaks = {name: peak_bytes(turn, arguments.device) for name, turn in turns.items()}
    gc.collect()
    return [
        row
        | {
            "peak_mb": peaks[row["variant"]] / 1e6,
            "memory_ratio": peaks[row["variant"]] / peaks["cutmix"],
            "bound": 1.1 * (1 + FORWARDS.get(row["variant"], 0) / 3),
        }
        for row in rows(f"{arguments.model} batch {arguments.batch}", times, "cutmix")
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=9)
    parser.add_argument("--model", default="deit_tiny_patch16_224", help="timm's name")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=CHOICES)
    parser.add_argument("--steps", type=int, default=1, help="steps in a turn")
    arguments = parse(parser, argv, {"model": "deit_small_patch16_224", "batch": 256, "steps": 5})
    if "cutmix" not in arguments.methods:
        parser.error("--methods must include cutmix, which the others are compared with")
    report = Report(__file__, arguments, argv)
    report.add(measure(arguments), {"bound": ".2f", "peak_mb": ".0f", "memory_ratio": ".3f"})


if __name__ == "__main__":
    main()
