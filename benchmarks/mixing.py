"""Mixing alone: Mixup and CutMix of a batch against timm's Mixup and torchvision's CutMix and MixUp.

    python benchmarks/mixing.py          batch 64, 224 pixels, on the CPU
    python benchmarks/mixing.py --gpu    batch 64, 256 and 1024 on the GPU

    transmix          a new batch; labels stay pairs of classes with their weights
    transmix + dense  and the (B, K) targets on top, which the others' results are
    timm              in place: the batch that came in is overwritten
    timm, copy        on a copy of the batch, so that it stays as transmix and torchvision leave it
    torchvision       a new batch

timm's Mixup is the peer. Boxes and ratios are drawn anew at every call, alpha 1; timm and torchvision draw from global
generators, transmix from its own. Mode "elem" draws for every image; torchvision has none.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from timing import Report, flags, parse, rows, take_turns
from timm.data import Mixup
from torch import Tensor
from torchvision.transforms import v2
from ways import SMOOTHING, batch_for

from transmix import Mixer


def variants(method: str, mode: str, images: Tensor, labels: Tensor, classes: int) -> dict[str, Callable[[], object]]:
    """Return what is timed: for each library a call that mixes the batch once."""
    alphas = {"mixup_alpha": 1.0 * (method == "mixup"), "cutmix_alpha": 1.0 * (method == "cutmix")}
    mixer = Mixer(**alphas, mode=mode, generator=torch.Generator().manual_seed(0))
    theirs = Mixup(**alphas, mode=mode, label_smoothing=SMOOTHING, num_classes=classes)
    scratch = images.clone()  # what timm overwrites
    found: dict[str, Callable[[], object]] = {
        "transmix": lambda: mixer(images, labels),
        "transmix + dense": lambda: mixer(images, labels).targets(classes, SMOOTHING),
        "timm": lambda: _timm(theirs, scratch, labels),
        "timm, copy": lambda: _timm(theirs, images.clone(), labels),
    }
    if mode == "batch":
        torchvisions = (v2.CutMix if method == "cutmix" else v2.MixUp)(num_classes=classes)
        found["torchvision"] = lambda: torchvisions(images, labels)
    return found


def _timm(mixup: Mixup, images: Tensor, labels: Tensor) -> object:
    return mixup(images, labels)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=21)
    parser.add_argument("--batches", type=int, nargs="+", default=[64])
    parser.add_argument("--side", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--modes", nargs="+", default=["batch", "elem"], choices=["batch", "elem"])
    parser.add_argument("--calls", type=int, default=4, help="calls in a turn")
    arguments = parse(parser, argv, {"batches": [64, 256, 1024], "calls": 10})
    report = Report(__file__, arguments, argv)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    for batch in arguments.batches:
        images, labels = batch_for(batch, arguments.side, arguments.classes, arguments.device)
        for mode in arguments.modes:
            for method in ("cutmix", "mixup"):
                turns = variants(method, mode, images, labels, arguments.classes)
                times = take_turns(turns, arguments.rounds, calls=arguments.calls, device=arguments.device)
                report.add(rows(f"{method} {mode}, batch {batch}", times, "timm"))


if __name__ == "__main__":
    main()
