"""Settings of data: where images come from and what is done to them. Sections `data` and `augmentation` of a recipe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    data: str | None = None
    """Name or folder of the data set: digits, digits48; torchvision:NAME; hf:PATH; or a folder with class folders,
    Parquet files, tar shards, CIFAR's, MNIST's (idx) or Oxford-IIIT Pet's files."""
    image_size: int = 224
    """Side of the square images that the model gets, in pixels."""
    train_images: int | None = None
    """Train on a class-balanced subset of N images, the same for every seed."""
    workers: int | None = None
    """Processes that load images; None: 0 for small images in memory, else what the cores allow."""
    cache_gb: float = 4.0
    """Decode a split once and keep it if it takes at most this much memory (per process)."""
    on_device: bool = False
    """Keep all images decoded on the device, and crop, flip, jitter and erase there, a batch at once: for small images,
    with rand_augment None. Other draws of the same distribution than without. On a GPU --compile compiles this too."""
    download: str | None = None
    """Folder to download a torchvision:NAME data set to, unless its files are there."""
    data_dir: str | None = None
    """Folder with the files of a torchvision:NAME data set; nothing is downloaded. None: data."""
    held_out: str | None = None
    """Part to validate on and to choose the best weights by: name of its folder, or start of its files' names. None:
    the first there is of val, valid, validation, validate, dev, eval, evaluation, test, testing."""
    val_fraction: float | None = None
    """Hold out this fraction of each class of the training images, instead of another part."""
    image_column: str | None = None
    """Column with the images in Parquet files and hf: data; None: image or img, else the only one that is typed so."""
    label_column: str | None = None
    """Column with the labels in Parquet files and hf: data; None: label, labels or fine_label, else the only
    ClassLabel."""
    grey_range: tuple[float, float] | None = None
    """The values that become black and white in grey images of more than 8 bits (16-bit PNG, float TIFF); None: the
    least and the greatest of all training images. The run keeps it, and evaluation, export and app use the same."""
    on_bad_image: Literal["error", "skip"] = "error"
    """'skip': go on without images that cannot be read. In training another one stands in, which follows from seed,
    epoch and index; in evaluation they do not count. RUN/bad_images.txt lists them."""
    max_bad_images: int = 100
    """How many different images a run may skip, training and validation together; more are an error."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, sample by sample, and how evaluation crops."""

    crop: Literal["none", "pad", "random-resized"] = "random-resized"
    """'pad': shift by up to `pad` pixels (small images); 'random-resized': Inception's crop."""
    pad: int = 4
    """Largest shift of crop 'pad', in pixels; what comes in is mirrored."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random resized crop as a fraction of the image, from and to."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Aspect ratio (width / height) of the random resized crop, from and to."""
    flip: float = 0.5
    """Chance of a left-right flip."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's policy string, or None."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter; used where rand_augment is None."""
    random_erasing: float = 0.25
    """Chance of replacing a rectangle by noise (timm's mode 'pixel')."""
    repeats: int = 1
    """Repeated augmentation: how often an image appears in an epoch, differently augmented (DeiT: 3)."""
    eval_crop: float = 0.875
    """Evaluation resizes the shorter side to image_size / eval_crop and crops the centre."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from each colour channel in 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides each colour channel."""
