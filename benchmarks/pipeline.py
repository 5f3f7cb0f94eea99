"""The input pipeline, stage by stage and whole, against timm's and torchvision's with the same work.

    python benchmarks/pipeline.py                     one core: 96 photographs of 500 x 375 pixels
    python benchmarks/pipeline.py --gpu               16,384 photographs, batch 128, 16 loader processes

Stages, in one process and thread: read the file's bytes, decode, augment (random resized crop, flip, RandAugment,
random erasing), collate a batch, bring it to the device, normalise it. Then whole loaders, from where the images are
to normalised float32 batches on the device:

    synthetic   uint8 batches lie in memory: to the device and normalise alone
    cached      decoded images lie in memory
    full        JPEG files; "packed": the same set as `transmix pack` writes it, its shorter side 288 pixels; "crop
                alone": what is left to the CPU with --augment-on device

timm: its transforms, fast collate and prefetching loader. torchvision: ImageFolder, transforms v2, torch's DataLoader.
DALI, where it is installed: its CPU path (dali_loader.py). cores_for_8000 is how many such cores feed 8,000 images/s.
RandAugment differs: transmix and timm run rand-m9-mstd0.5-inc1 (2 of 15 operations), torchvision its own (2 of 14,
strength 9). transmix and torchvision erase in "augment", which for torchvision also normalises; timm's loader erases a
normalised batch on the device.
"""

import io
import math
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dali_loader import dali_epoch
from photographs import write_folders
from PIL import Image
from timing import Report, flags, parse, rows, take_turns
from timm.data import ImageDataset, create_loader, create_transform
from timm.data.loader import fast_collate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from transmix.data.augment import TrainingAugmentation
from transmix.data.decode import decode_image
from transmix.data.device_batches import CroppedSamples
from transmix.data.loader import TrainingBatches, TrainingSamples
from transmix.data.sampler import EpochSampler
from transmix.data.settings import Augmentation, Data
from transmix.data.source import load_data
from transmix.models.build import normaliser
from transmix.pack import pack

CLASSES = 2
POLICY, ERASING = "rand-m9-mstd0.5-inc1", 0.25
MEAN, STD = Augmentation.mean, Augmentation.std
BICUBIC = v2.InterpolationMode.BICUBIC
RATES = 1000, 8000, 16000
"""Images per second that GPUs take in training: a small one, and large ones with DeiT-Small and DeiT-Tiny."""


class Decoded(Dataset):
    """PIL images in memory, for the loaders of timm and torchvision."""

    def __init__(self, images: list[Image.Image], transform: Callable[[Image.Image], Any] | None = None):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        assert self.transform is not None  # timm's create_loader sets it
        return self.transform(self.images[index]), index % CLASSES


def torchvision_transform(size: int) -> v2.Compose:
    """Return torchvision's augmentation of a PIL image, to a normalised float32 tensor."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(2, 9, interpolation=BICUBIC),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(ERASING),
        ]
    )


def timm_normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise a uint8 batch on its device the way timm's prefetching loader does, mean and std in 0..255."""
    return images.to(torch.float32).sub_(mean).div_(std)


def stages(files: list[Path], size: int, batch: int, device: str) -> dict[str, dict[str, Callable[[], object]]]:
    """Return for each stage what is timed, library by library, and for every image or batch of the files in turn."""
    encoded = [path.read_bytes() for path in files]
    pixels = [decode_image(one, "memory") for one in encoded]
    pictures = [Image.fromarray(one) for one in pixels]
    ours = TrainingAugmentation(Augmentation(rand_augment=POLICY, random_erasing=ERASING), size)
    theirs: Any = create_transform(
        size, is_training=True, auto_augment=POLICY, interpolation="bicubic", use_prefetcher=True
    )
    torchvisions = torchvision_transform(size)
    ready = [(ours(one, index), index % CLASSES) for index, one in enumerate(pixels)][:batch]
    arrays: Any = [(image.numpy(), label) for image, label in ready]
    floats = [(image.float(), label) for image, label in ready]
    lying = torch.stack([image for image, _ in ready])
    there = lying.to(device)
    normalise = normaliser(MEAN, STD, torch.device(device), channels_last=False)
    mean, std = (torch.tensor(values, device=device).mul(255)[:, None, None] for values in (MEAN, STD))
    found: dict[str, dict[str, Callable[[], object]]] = {
        "read": {"transmix": lambda: [path.read_bytes() for path in files]},
        "decode": {
            "transmix": lambda: [decode_image(one, "memory") for one in encoded],
            "timm": lambda: [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in encoded],
        },
        "augment": {
            "transmix": lambda: [ours(one, index) for index, one in enumerate(pixels)],
            "timm": lambda: [theirs(one) for one in pictures],
            "torchvision": lambda: [torchvisions(one) for one in pictures],
        },
        "collate": {
            "transmix": lambda: default_collate(ready),
            "timm": lambda: fast_collate(arrays),
            "torchvision": lambda: default_collate(floats),
        },
        "normalise": {"transmix": lambda: normalise(there), "timm": lambda: timm_normalise(there, mean, std)},
    }
    if device == "cuda":
        pinned = lying.pin_memory()
        found["to device"] = {"transmix": lambda: pinned.to(device, non_blocking=True)}
    return found


def loaders(data: Path, arguments: Namespace) -> dict[str, dict[str, Callable[[], object]]]:
    """Return for each kind of loader what is timed: an epoch, library by library."""
    size, batch, workers, device = arguments.side, arguments.batch, arguments.workers, torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    split = load_data(Data(data=str(data), cache_gb=0), seed=0).train
    cached = load_data(Data(data=str(data), cache_gb=64), seed=0).train
    pack(data, data.parent / "packed", workers=workers, progress=False)
    packed = load_data(Data(data=str(data.parent / "packed"), cache_gb=0), seed=0).train
    pictures = [Image.fromarray(one) for one in cached.images]
    normalise = normaliser(MEAN, STD, device, channels_last=False)
    augment = TrainingAugmentation(Augmentation(rand_augment=POLICY, random_erasing=ERASING), size)

    def ours(split: Any, crop_alone: bool = False) -> Callable[[], object]:
        order = EpochSampler(len(split), 0, batch, batch)
        samples = TrainingSamples(split, augment, seed=0)
        if crop_alone:
            samples = CroppedSamples(split, augment.settings, size, seed=0)
        loader = TrainingBatches(samples, order, workers, pin=on_gpu)
        return lambda: drain(normalise(images) for images, *_ in loader)

    def theirs(dataset: Any) -> Callable[[], object]:
        loader = create_loader(
            dataset, size, batch, is_training=True, re_prob=ERASING, re_mode="pixel", auto_augment=POLICY,
            interpolation="bicubic", mean=MEAN, std=STD, num_workers=workers, pin_memory=on_gpu, device=device,
            persistent_workers=workers > 0,
        )  # fmt: skip
        return lambda: drain(images for images, _ in loader)

    def torchvisions(dataset: Any) -> Callable[[], object]:
        loader = DataLoader(
            dataset, batch, shuffle=True, num_workers=workers, pin_memory=on_gpu, drop_last=True,
            persistent_workers=workers > 0,
        )  # fmt: skip
        return lambda: drain(images.to(device, non_blocking=True) for images, _ in loader)

    count = len(split) // batch
    lying = torch.zeros(batch, 3, size, size, dtype=torch.uint8).random_(256)
    lying = lying.pin_memory() if on_gpu else lying
    mean, std = (torch.tensor(values, device=device).mul(255)[:, None, None] for values in (MEAN, STD))
    transform = torchvision_transform(size)
    found: dict[str, dict[str, Callable[[], object]]] = {
        "synthetic": {
            "transmix": lambda: drain(normalise(lying) for _ in range(count)),
            "timm": lambda: drain(timm_normalise(lying.to(device, non_blocking=True), mean, std) for _ in range(count)),
        },
        "cached": {
            "transmix": ours(cached),
            "timm": theirs(Decoded(pictures)),
            "torchvision": torchvisions(Decoded(pictures, transform)),
        },
        "full": {
            "transmix": ours(split),
            "transmix, crop alone": ours(split, crop_alone=True),
            "transmix packed": ours(packed),
            "transmix packed, crop alone": ours(packed, crop_alone=True),
            "timm": theirs(ImageDataset(str(data / "train"))),
            "torchvision": torchvisions(ImageFolder(str(data / "train"), transform)),
        },
    }
    if dali := dali_epoch(data / "train", size, batch, max(1, workers), MEAN, STD):
        found["full"]["DALI"] = dali
    return found


def drain(batches: Iterable[object]) -> None:
    """Take every batch of an epoch."""
    for _ in batches:
        pass


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = flags(__doc__, rounds=5)
    parser.add_argument("--images", type=int, default=96, help="an epoch; at least a batch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224, help="side of the images in a batch")
    parser.add_argument("--stored", type=int, nargs=2, default=[375, 500], help="height and width of the JPEG files")
    parser.add_argument("--workers", type=int, default=0, help="loader processes; stages have none")
    parser.add_argument("--parts", nargs="+", default=["stages", "loaders"], choices=["stages", "loaders"])
    arguments = parse(parser, argv, {"images": 16384, "batch": 128, "workers": 16, "rounds": 2})
    if arguments.images < arguments.batch:
        parser.error(f"--images {arguments.images} do not fill a batch of {arguments.batch}")
    torch.set_num_threads(arguments.threads or 1)  # what a loader process has
    report = Report(__file__, arguments, argv)
    height, width = arguments.stored
    with tempfile.TemporaryDirectory() as folder:
        data = write_folders(Path(folder, "photographs"), arguments.images, classes=CLASSES, height=height, width=width)
        if "stages" in arguments.parts:
            files = sorted((data / "train").rglob("*.jpg"))[: max(96, arguments.batch)]
            for stage, turns in stages(files, arguments.side, arguments.batch, arguments.device).items():
                images = len(files) if stage in ("read", "decode", "augment") else arguments.batch
                measure(report, f"stage {stage}", turns, images, arguments)
        if "loaders" in arguments.parts:
            epoch = arguments.images // arguments.batch * arguments.batch
            for kind, turns in loaders(data, arguments).items():
                measure(report, f"{kind} loader, {arguments.workers} workers", turns, epoch, arguments)


def measure(
    report: Report, case: str, turns: dict[str, Callable[[], object]], images: int, arguments: Namespace
) -> None:
    """Time what handles `images` images a call, and report it with images per second."""
    times = take_turns(turns, arguments.rounds, warm_up=1, device=arguments.device)
    peer = "timm" if "timm" in turns else "transmix"
    made = [row | {"images_per_second": 1e3 * images / row["median_ms"]} for row in rows(case, times, peer)]
    shown = {"images_per_second": ".0f"}
    if "loader" in case:
        cores = max(1, arguments.workers)
        for row in made:
            row |= {f"cores_for_{rate}": math.ceil(cores * rate / row["images_per_second"]) for rate in RATES}
        shown |= {f"cores_for_{rate}": "d" for rate in RATES}
    report.add(made, shown)


if __name__ == "__main__":
    main()
