"""Images a second that the loader makes, and that `--on-device` makes, under the same recipe.

    python benchmarks/on_device.py                  CPU, one thread, loader without workers
    python benchmarks/on_device.py --device cuda --workers 8 --threads 8

Noise images of 32 pixels; both ways in turn within one run (loader, device, loader, ...), a pass over all images each.
The table gives the median of each and of their ratios, round by round, with the quartiles of those.

    digits          shift                          (recipe digits)
    cifar           shift, flip, erasing           (recipe cifar100_deit_tiny without RandAugment)
    resized         random resized crop, flip
    resized+colour  the same, jitter and erasing

`--check` compiles what is done on the device with inductor (a minute or two) and compares pixels, bit for bit; with
cuda it also compares them with the CPU's.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from transmix.data.augment import TrainingAugmentation
from transmix.data.bad import BadImages
from transmix.data.dataset import Split
from transmix.data.loader import TrainingSamples, training_loader
from transmix.data.on_device import TrainingBatchesOnDevice, TrainingImages
from transmix.data.order import EpochOrder
from transmix.recipes.settings import Augmentation

KINDS = {
    "digits": Augmentation(crop="pad", pad=2, flip=0.0, rand_augment=None, random_erasing=0.0),
    "cifar": Augmentation(crop="pad", pad=4, flip=0.5, rand_augment=None, random_erasing=0.25),
    "resized": Augmentation(rand_augment=None, random_erasing=0.0),
    "resized+colour": Augmentation(rand_augment=None, color_jitter=0.3, random_erasing=0.25),
}


def images_a_second(batches, device: str) -> float:
    started, count = time.perf_counter(), 0
    for images, _ in batches:
        images = images.to(device, non_blocking=True)
        count += len(images)
    if device == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - started)


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--images", type=int, default=2560, help="images in the set (2560)")
    parser.add_argument("--size", type=int, default=32, help="their side in pixels (32)")
    parser.add_argument("--batch", type=int, default=128, help="images a batch (128)")
    parser.add_argument("--rounds", type=int, default=9, help="passes of each way (9)")
    parser.add_argument("--workers", type=int, default=0, help="loader workers (0)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (1)")
    parser.add_argument("--check", action="store_true", help="compare bits instead")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (arguments.images, arguments.size, arguments.size, 3), dtype=np.uint8)
    split = Split(pixels, np.zeros(arguments.images, dtype=np.int64))
    if arguments.check:
        for kind in KINDS:
            check(split, kind, arguments.size, arguments.device)
        return
    figures = {}
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine()
    print(f"{arguments.size} pixels, batch {arguments.batch}, {arguments.workers} loader workers, {where}")
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    print(f"{'images/s':<16}{'loader':>10}{'on device':>11}{'ratio':>8}{'quartiles':>16}")
    for kind, settings in KINDS.items():
        order = EpochOrder(arguments.images, 0, arguments.batch, arguments.batch)
        samples = TrainingSamples(split, TrainingAugmentation(settings, arguments.size), 0)
        ways = {
            "loader": training_loader(samples, order, arguments.workers, arguments.device == "cuda"),
            "device": TrainingBatchesOnDevice(
                TrainingImages(split, settings, arguments.size, 0, arguments.device), order, BadImages()
            ),
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(arguments.rounds + 1):
            order.start_at(turn)
            for name, batches in ways.items():
                speed = images_a_second(batches, arguments.device)
                if turn:  # the first warms up
                    speeds[name].append(speed)
        ratios = [device / loader for device, loader in zip(speeds["device"], speeds["loader"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        loader, device = (statistics.median(speeds[name]) for name in ways)
        figures[kind] = {"loader": loader, "on_device": device, "ratio": middle, "quartiles": [low, high]}
        print(f"{kind:<16}{loader:>10,.0f}{device:>11,.0f}{middle:>8.1f}{f'{low:.1f} - {high:.1f}':>16}")
    if arguments.out:
        about = {name: getattr(arguments, name) for name in ("images", "size", "batch", "rounds", "workers", "threads")}
        versions = {"torch": torch.__version__, "device": where}
        arguments.out.write_text(json.dumps({**about, **versions, "kinds": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
