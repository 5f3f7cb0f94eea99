"""Step time of TransMix over CutMix, beside the reference's way and the competent hand-written way.

    python benchmarks/step_overhead.py                          CPU: DeiT-Tiny, 224 pixels, batch 16
    python benchmarks/step_overhead.py --device cuda            GPU: DeiT-Small, bf16, compiled, batch 256

All variants train copies of one model on the same images with the same boxes, in turn within one run (A B C D A ...);
the table gives each variant's median step time as a ratio to CutMix, round by round, and the spread of those ratios.

    cutmix        fused attention, labels by area
    transmix      this library: fused attention left on, one row read
    reference     every block unfused and its attention matrix cloned, as in the authors' repository
    last unfused  the last block alone unfused, its matrix kept: what a careful hand-written loop does
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import timm
import torch
from torch import nn

from transmix import MixedCrossEntropy, Mixer, TransMix, attention_labels


class KeepAttention(nn.Module):
    """Stands in for an attention dropout of 0: keeps the softmax matrix that passes."""

    def forward(self, attention: torch.Tensor) -> torch.Tensor:
        """Keep (B, G, N, N) detached and cloned, as the reference does; hand it on."""
        self.attention = attention.detach().clone()
        return attention


class Variant:
    """One way to train: a model, and a step that mixes, predicts, weighs labels and descends."""

    def __init__(self, name: str, arguments: argparse.Namespace):
        torch.manual_seed(0)
        self.name, self.arguments = name, arguments
        model = timm.create_model(arguments.model).to(arguments.device).train()
        self.mixer = Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(0))
        self.criterion = MixedCrossEntropy(0.1)
        self.transmix = TransMix(model, smoothing=0.1, mixup_alpha=0) if name == "transmix" else None
        if self.transmix is not None:
            self.transmix.mixer.generator.manual_seed(0)
        self.keep = None
        unfused = {"reference": model.blocks, "last unfused": model.blocks[-1:]}.get(name, [])
        for block in unfused:
            block.attn.fused_attn = False
            block.attn.attn_drop = self.keep = KeepAttention()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.model = torch.compile(model) if arguments.compile else model

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one optimizer step."""
        amp = torch.autocast(self.arguments.device, torch.bfloat16, enabled=self.arguments.bf16)
        if self.transmix is not None:
            mixed = self.transmix.mix(images, labels)
            with amp:
                logits = self.model(mixed.images)
            loss = self.transmix.loss(logits, mixed)
        else:
            mixed = self.mixer(images, labels)
            with amp:
                logits = self.model(mixed.images)
            if self.keep is not None:
                mixed = attention_labels(mixed, self.keep.attention[:, :, 0, 1:].float().mean(1))
            loss = self.criterion(logits, mixed)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def seconds(variant: Variant, images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Return the time of `steps` steps."""
    if images.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        variant.step(images, labels)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--model", help="timm model (deit_tiny_patch16_224 on the CPU, deit_small_patch16_224 on a GPU)"
    )
    parser.add_argument("--batch", type=int, help="images a step (16; 256)")
    parser.add_argument("--rounds", type=int, help="rounds over all variants (15; 30)")
    parser.add_argument("--steps", type=int, help="steps of a variant in a round (1; 10)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.model = arguments.model or ("deit_small_patch16_224" if on_gpu else "deit_tiny_patch16_224")
    arguments.batch = arguments.batch or (256 if on_gpu else 16)
    arguments.rounds = arguments.rounds or (30 if on_gpu else 15)
    arguments.steps = arguments.steps or (10 if on_gpu else 1)
    arguments.bf16 = arguments.compile = on_gpu

    variants = [Variant(name, arguments) for name in ("cutmix", "transmix", "last unfused", "reference")]
    images = torch.randn(arguments.batch, 3, 224, 224, device=arguments.device)
    labels = torch.randint(1000, (arguments.batch,), device=arguments.device)
    for variant in variants:
        seconds(variant, images, labels, 2)
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            times[variant.name].append(seconds(variant, images, labels, arguments.steps) / arguments.steps)

    figures = {}
    print(f"{arguments.model}, batch {arguments.batch}, {arguments.device}")
    print(f"torch {torch.__version__}, timm {timm.__version__}")
    print(f"{'':<14}{'median ms':>10}{'x cutmix':>10}{'quartiles':>18}")
    for name, measured in times.items():
        ratios = sorted(one / cutmix for one, cutmix in zip(measured, times["cutmix"], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {"median_ms": 1e3 * statistics.median(measured), "ratio": middle, "quartiles": [low, high]}
        print(f"{name:<14}{figures[name]['median_ms']:>10.1f}{middle:>10.3f}{f'{low:.3f} - {high:.3f}':>18}")
    if arguments.out:
        where = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
        settings = {"model": arguments.model, "batch": arguments.batch, "device": where, "rounds": arguments.rounds}
        versions = {"torch": torch.__version__, "timm": timm.__version__}
        arguments.out.write_text(json.dumps({**settings, **versions, "variants": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
