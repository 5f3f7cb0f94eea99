"""Images a second that `--on-device` makes, against the loader's under the same recipe.

    python benchmarks/on_device.py          CPU, one thread, loader without workers
    python benchmarks/on_device.py --gpu    images on the GPU, loader with 16 workers

Noise images of 32 pixels; a turn is a pass over all of them.

    digits          shift                          (recipe digits)
    cifar           shift, flip, erasing           (recipe cifar100_deit_tiny without RandAugment)
    resized         random resized crop, flip
    resized+colour  the same, jitter and erasing

`--check` compiles what is done on the device with inductor (a minute or two) and compares pixels, bit for bit; with
--gpu it also compares them with the CPU's.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import count

import numpy as np
import torch
from timing import Report, flags, parse, rows, take_turns
from torch import Tensor

from transmix.data.augment import TrainingAugmentation
from transmix.data.bad_images import BadImages
from transmix.data.dataset import Split
from transmix.data.loader import TrainingBatches, TrainingSamples
from transmix.data.on_device import TrainingBatchesOnDevice, TrainingImages
from transmix.data.sampler import EpochSampler
from transmix.data.settings import Augmentation

KINDS = {
    "digits": Augmentation(crop="pad", pad=2, flip=0.0, rand_augment=None, random_erasing=0.0),
    "cifar": Augmentation(crop="pad", pad=4, flip=0.5, rand_augment=None, random_erasing=0.25),
    "resized": Augmentation(rand_augment=None, random_erasing=0.0),
    "resized+colour": Augmentation(rand_augment=None, color_jitter=0.3, random_erasing=0.25),
}


def passes(batches: Iterable[tuple[Tensor, Tensor]], order: EpochSampler, device: str) -> Callable[[], None]:
    """Return a function that brings all images to the device once, each call as another epoch."""
    epochs = count()

    def once() -> None:
        order.start_at(next(epochs))
        for images, _ in batches:
            images.to(device, non_blocking=True)

    return once


def variants(split: Split, settings: Augmentation, size: int, batch: int, workers: int, device: str) -> dict:
    """Return what is timed."""
    samples = TrainingSamples(split, TrainingAugmentation(settings, size), 0)
    first, second = (EpochSampler(len(split), 0, batch, batch) for _ in range(2))
    loader = TrainingBatches(samples, first, workers, device == "cuda")
    found = {"loader": passes(loader, first, device)}
    for name, compiled in {"on device": False, "on device, compiled": True}.items():
        if not compiled or device == "cuda":  # as `--on-device --compile` has it
            images = TrainingImages(split, settings, size, 0, device)
            if compiled:
                images.compile()
            found[name] = passes(TrainingBatchesOnDevice(images, second, BadImages(), BadImages()), second, device)
    return found


def check(split: Split, kind: str, size: int, device: str) -> None:
    samples = [(1, index, 0) for index in range(64)]
    images = TrainingImages(split, KINDS[kind], size, 0, device)
    sources, draws = images.draw(samples)
    torch._dynamo.reset()
    draw = torch.compile(images.augment.draw, fullgraph=True)(draws.samples)
    compiled = torch.compile(images.augment.apply, fullgraph=True)(images.images[sources], draw)
    eager, _ = images.take(sources, draws)
    on_cpu, _ = TrainingImages(split, KINDS[kind], size, 0, "cpu").batch(samples)
    same = {"compiled and eager": compiled.equal(eager), f"{device} and cpu": eager.cpu().equal(on_cpu)}
    print(kind, ", ".join(f"{name}: {'equal' if equal else 'DIFFERENT'}" for name, equal in same.items()))
    if not all(same.values()):
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=9)
    parser.add_argument("--images", type=int, default=2560, help="images in the set")
    parser.add_argument("--size", type=int, default=32, help="their side in pixels")
    parser.add_argument("--batch", type=int, default=128, help="images a batch")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--check", action="store_true", help="compare bits instead")
    arguments = parse(parser, argv, {"images": 50000, "workers": 16, "rounds": 3})
    if not arguments.workers:
        torch.set_num_threads(arguments.threads or 1)  # what a loader process has
    pixels = np.random.default_rng(0).integers(
        0, 256, (arguments.images, arguments.size, arguments.size, 3), dtype=np.uint8
    )
    split = Split(pixels, np.zeros(arguments.images, dtype=np.int64))
    if arguments.check:
        for kind in KINDS:
            check(split, kind, arguments.size, arguments.device)
        return
    report = Report(__file__, arguments, argv)
    seen = arguments.images // arguments.batch * arguments.batch
    for kind, settings in KINDS.items():
        turns = variants(split, settings, arguments.size, arguments.batch, arguments.workers, arguments.device)
        times = take_turns(turns, arguments.rounds, warm_up=1, device=arguments.device)
        made = rows(f"{kind}, {arguments.size} pixels, {arguments.workers} workers", times, "loader")
        report.add(
            [row | {"images_per_second": 1e3 * seen / row["median_ms"]} for row in made], {"images_per_second": ".0f"}
        )


if __name__ == "__main__":
    main()
