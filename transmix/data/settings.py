"""Data settings: where images come from and how they are augmented. Sections `data` and `augmentation` of a recipe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    data: str | None = None
    """Name or folder of the data set: digits, digits48, small_digits; torchvision:NAME; hf:PATH; a folder with class
    folders, label lists, Parquet files, tar shards, packed images, or the files of CIFAR, MNIST (idx) or Oxford-IIIT
    Pet; or a label list."""
    image_size: int = 224
    """Side of the model's square input in pixels."""
    train_images: int | None = None
    """Train on a class-balanced subset of N images, the same for every seed."""
    balance: Literal["none", "sampler", "loss"] = "none"
    """Training on classes of uneven size. sampler: draw each class equally often; an epoch keeps its length, so images
    of small classes come several times and some of large classes do not come. loss: weigh each label's part of the
    loss by N / (K n), with n of the N training images in its class, of K classes."""
    workers: int | None = None
    """Number of loader workers; None: 0 for small images in memory, and for any images in memory on a CPU with fewer
    than 8 cores; else chosen from the cores."""
    cache_gb: float = 4.0
    """Decode a split once and keep it in memory if it takes at most this many GB (per process)."""
    on_device: bool = False
    """Keep all images decoded on the device, and augment whole batches there. For small images. The random draws
    differ from those of the loader, with the same distribution. On a GPU --compile compiles this too."""
    download: str | None = None
    """Folder to download a torchvision:NAME data set to, unless its files exist there."""
    data_dir: str | None = None
    """Folder with the files of a torchvision:NAME data set; nothing is downloaded. None: data."""
    held_out: str | None = None
    """Part for validation and for choosing the best weights: name of its folder, or prefix of its file names. None: the
    first existing one of val, valid, validation, validate, dev, eval, evaluation, test, testing."""
    val_fraction: float | None = None
    """Hold out this fraction of each class of the training images, instead of a separate part; of all images where
    they are not divided into parts. The images follow from the labels and their order, not from the seed. Copies of an
    image may come into both: transmix doctor finds them."""
    image_column: str | None = None
    """Column with the images in Parquet files, hf: data and label lists; None: image or img, else the only column of
    type Image; in label lists also filename, path, id and the like."""
    label_column: str | None = None
    """Column with the labels in Parquet files, hf: data and label lists; None: label, labels or fine_label, else the
    only column of type ClassLabel; in label lists also class, category, breed and the like."""
    grey_range: tuple[float, float] | None = None
    """Pixel values for black and white in grey images of more than 8 bits (16-bit PNG, float TIFF); None: minimum and
    maximum over all training images. The run saves the range; evaluation, export and app use the same."""
    on_bad_image: Literal["error", "skip"] = "error"
    """'skip': skip unreadable images. In training each is replaced by another image, chosen from seed, epoch and index;
    in evaluation they do not count. RUN/bad_images.txt lists them."""
    max_bad_images: int = 100
    """Maximum number of different skipped images, training and validation together; more are an error."""


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images, sample by sample, and the evaluation crop."""

    crop: Literal["none", "pad", "random-resized"] = "random-resized"
    """'pad': shift by up to `pad` pixels (small images); 'random-resized': random resized crop (ImageNet)."""
    pad: int = 4
    """Largest shift of crop 'pad', in pixels; the border is filled by reflection."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random resized crop as a fraction of the image, minimum and maximum."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Aspect ratio (width / height) of the random resized crop, minimum and maximum."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment policy string; None: off."""
    augment_on: Literal["cpu", "device"] = "cpu"
    """'device': loader workers decode and crop, and the device does the rest of the augmentation, a batch at a time;
    for a GPU that waits for its workers. The random draws differ from those of the CPU, with the same distribution.
    With --compile it is compiled too. Data kept on the device (on_device) is always augmented there."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter; used if rand_augment is None."""
    random_erasing: float = 0.25
    """Probability of replacing a rectangle by noise (timm's mode 'pixel')."""
    repeats: int = 1
    """Repeated augmentation: number of differently augmented copies of an image per epoch (DeiT: 3)."""
    eval_crop: float = 0.875
    """Evaluation resizes the shorter side to image_size / eval_crop and crops the centre."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each colour channel in 0..1, subtracted from pixels."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each colour channel, divides pixels."""
    pixel_version: Literal[1, 2] = 2
    """How training images become pixels. 2: large JPEG files are decoded at a reduced size that is at least the crop's
    output, and draws and resizing are faster. 1: as in runs before there was a version 2; these resume with it."""
