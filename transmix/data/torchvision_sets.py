"""Published data sets that torchvision reads: their names, parts, images and labels.

torchvision downloads and checks the files and knows splits, labels and names. Decoding is ours: the `loader` passed to
torchvision returns the path of an image, and arrays are used unchanged.
"""

import difflib
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.bad_images import opened_alone
from transmix.data.class_names import class_names
from transmix.data.dataset import DataError, ImageData, Images, Parts, Split, listing, require_every_class
from transmix.data.encoded import image_files
from transmix.data.parts import USUAL, Choice, choose_parts
from transmix.error import one_line

PREFIX = "torchvision:"
"""What the name of a set begins with as `--data`."""

FOLDER = "data"
"""Where the files of a set are looked for if no folder is given."""

Samples = tuple[Images, Any]
"""Images, and (N,) labels as torchvision numbers them."""


class _Pictures:
    """Images that torchvision reads one by one from a large file, as arrays."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int, /) -> np.ndarray:
        if index >= len(self):
            raise IndexError(index)
        return _rgb(np.asarray(self.dataset[index][0])[None])[0]

    def size(self, index: int) -> tuple[int, int]:
        return self[index].shape[:2]

    def where(self, index: int) -> str:
        return f"{type(self.dataset).__name__} image {index}"


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels (N, H, W), (N, 3, H, W) or (N, H, W, 3) to (N, H, W, 3); grey takes no extra memory."""
    if pixels.ndim == 3:
        return np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1) if pixels.shape[3] != 3 else pixels)


def _arrays(dataset: Any) -> Samples:
    labels = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels)
    return _rgb(np.asarray(dataset.data)), labels[:, 0] if labels.ndim == 2 else labels  # QMNIST has eight columns


def _emnist(dataset: Any) -> Samples:
    """Transpose EMNIST's images: its files hold them transposed."""
    return _rgb(np.asarray(dataset.data).transpose(0, 2, 1)), np.asarray(dataset.targets)


def _fer2013(dataset: Any) -> Samples:
    pictures, labels = zip(*dataset, strict=True)
    return _rgb(np.stack([np.asarray(one) for one in pictures])), labels


def _pcam(dataset: Any) -> Samples:
    path = dataset._base_folder / dataset._FILES[dataset._split]["targets"][0]
    with dataset.h5py.File(path) as file:  # at once: an image's own label would open the file for each image
        return _Pictures(dataset), file["y"][:, 0, 0, 0]


def _paths(samples: list[tuple[Any, Any]]) -> Samples:
    paths = [os.path.abspath(path) for path, _ in samples]
    folder = os.path.commonpath({os.path.dirname(path) for path in paths})
    return image_files(Path(folder), (os.path.relpath(path, folder) for path in paths)), [label for _, label in samples]


def _files(dataset: Any) -> Samples:
    return _paths([dataset[index] for index in range(len(dataset))])


def _sorted_files(dataset: Any) -> Samples:
    """Sort images by path, because torchvision uses the order of the file system."""
    return _paths(sorted(dataset[index] for index in range(len(dataset))))


def _omniglot(dataset: Any) -> Samples:
    """Number the characters by name, because torchvision uses the order of the file system."""
    number = {name: index for index, name in enumerate(sorted(dataset._characters))}
    samples = (dataset[index] for index in range(len(dataset)))
    found = sorted((path, number[dataset._characters[label]]) for path, label in samples)
    dataset.classes = sorted(dataset._characters)
    return _paths(found)


def _caltech(folder: str, name: str, dataset: Any) -> Samples:
    base = Path(dataset.root) / folder
    rows = zip(dataset.y, dataset.index, strict=True)
    return _paths([(base / dataset.categories[y] / name.format(y + 1, index), y) for y, index in rows])


Variant = Mapping[str, Mapping[str, Any]]
"""Part -> arguments of torchvision's class."""


@dataclass(frozen=True)
class PublishedSet:
    """How to call a torchvision data set class, and where its images and labels are.

    Attributes:
        variants: variant after the colon -> part -> arguments; "" is the default variant.
        read: gets images and labels from an instance.
        fetched: whether torchvision can still download it.
        needs: packages that it needs besides `transmix[train]`.
    """

    variants: Mapping[str, Variant]
    read: Callable[[Any], Samples] = _files
    fetched: bool = True
    needs: str = ""


def _splits(*names: str, argument: str = "split", **more: Any) -> Variant:
    """Return part -> arguments; 'train=trainval' is a part train that torchvision calls trainval."""
    return {name.partition("=")[0]: {argument: name.rpartition("=")[2], **more} for name in names}


def _variants(parts: Variant, argument: str, values: Iterable[Any], needed: bool = False) -> dict[str, Variant]:
    """Return variant -> part -> arguments; the variants are the values of one more argument.

    If a variant is required, there is no default.
    """
    usual = {} if needed else {"": parts}
    return usual | {str(one): {part: {**more, argument: one} for part, more in parts.items()} for one in values}


_ALL: dict[str, Variant] = {"": {"train": {}}}
_HALVES: Variant = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST, _TRAIN_VAL, _THIRDS = _splits("train", "test"), _splits("train", "val"), _splits("train", "val", "test")
_PLACES = ("train=train-standard", "val")
_YEAR = partial(_splits, argument="version")
_YEARS = ("2017", "2018", "2019")
_NOW = {name: _YEAR(f"train=2021_train{end}", "valid=2021_valid") for name, end in (("", ""), ("mini", "_mini"))}
_EMNIST = ("balanced", "letters", "digits", "byclass", "bymerge", "mnist")

SETS: dict[str, PublishedSet] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST"), PublishedSet({"": _HALVES}, _arrays)),
    "QMNIST": PublishedSet({"": _splits("train", "test", "test10k", "test50k", argument="what")}, _arrays),
    "EMNIST": PublishedSet(_variants(_HALVES, "split", _EMNIST, needed=True), _emnist),
    "SVHN": PublishedSet({"": _splits("train", "test", "extra")}, _arrays),
    "STL10": PublishedSet({"": _TRAIN_TEST}, _arrays),
    "USPS": PublishedSet({"": _HALVES}, _arrays),
    "SEMEION": PublishedSet(_ALL, _arrays),
    "FER2013": PublishedSet({"": _TRAIN_TEST}, _fer2013, fetched=False),
    "PCAM": PublishedSet({"": _THIRDS}, _pcam, needs="h5py"),
    "Caltech101": PublishedSet(_ALL, partial(_caltech, "101_ObjectCategories", "image_{1:04d}.jpg")),
    "Caltech256": PublishedSet(_ALL, partial(_caltech, "256_ObjectCategories", "{0:03d}_{1:04d}.jpg")),
    "CLEVRClassification": PublishedSet({"": _TRAIN_VAL}),
    "Country211": PublishedSet({"": _splits("train", "valid", "test")}),
    "DTD": PublishedSet(_variants(_THIRDS, "partition", range(1, 11))),
    "EuroSAT": PublishedSet(_ALL),
    "FGVCAircraft": PublishedSet(_variants(_THIRDS, "annotation_level", ("variant", "family", "manufacturer"))),
    "Flowers102": PublishedSet({"": _THIRDS}),
    "Food101": PublishedSet({"": _TRAIN_TEST}),
    "GTSRB": PublishedSet({"": _TRAIN_TEST}, lambda signs: _paths(signs._samples)),
    "ImageNet": PublishedSet({"": _TRAIN_VAL}, fetched=False),
    "Imagenette": PublishedSet(_variants(_TRAIN_VAL, "size", ("320px", "160px"))),
    "INaturalist": PublishedSet(_NOW | {year: _YEAR(f"train={year}") for year in _YEARS}, _sorted_files),
    "LFWPeople": PublishedSet(_ALL, fetched=False),
    "Omniglot": PublishedSet(_ALL | {"evaluation": {"train": {"background": False}}}, _omniglot),
    "OxfordIIITPet": PublishedSet(
        {"": _splits("train=trainval", "test")}, lambda pets: _paths([*zip(pets._images, pets._labels, strict=True)])
    ),
    "Places365": PublishedSet({"": _splits(*_PLACES), "small": _splits(*_PLACES, small=True)}),
    "RenderedSST2": PublishedSet({"": _THIRDS}),
    "StanfordCars": PublishedSet({"": _TRAIN_TEST}, fetched=False),
    "SUN397": PublishedSet(_ALL, _sorted_files),
}
"""The sets that are read, by torchvision's name. The first part of each is trained on."""

REFUSED = {
    "attributes, not one class an image": ("CelebA",),
    "captions": ("CocoCaptions", "Flickr8k", "Flickr30k", "SBU"),
    "boxes": ("CocoDetection", "Kitti", "VOCDetection", "WIDERFace"),
    "masks": ("Cityscapes", "SBDataset", "VOCSegmentation"),
    "pairs": ("LFWPairs", "PhotoTour"),
    "stereo pairs and optical flow": (
        "CREStereo", "CarlaStereo", "ETH3DStereo", "FallingThingsStereo", "FlyingChairs", "FlyingThings3D", "HD1K",
        "InStereo2k", "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow", "Middlebury2014Stereo", "SceneFlowStereo",
        "Sintel", "SintelStereo",
    ),
    "videos": ("HMDB51", "Kinetics", "MovingMNIST", "UCF101"),
    "noise": ("FakeData",),
    "a pickle that torchvision does not check": ("LSUN", "LSUNClass"),
    "folders, which --data FOLDER reads": ("DatasetFolder", "ImageFolder"),
}  # fmt: skip
"""What those are made of that are not read."""

OLDER_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
OLDER_NAMES |= {"oxford-pets": "OxfordIIITPet"} | {f"emnist-{split}": f"EMNIST:{split}" for split in _EMNIST}
"""Names that `--data` took before it took torchvision's; with them classes and parts are called as they were then."""


def find_set(name: str) -> tuple[str, str]:
    """Parse a name in any letter case, such as 'emnist:letters', to torchvision's name and the variant.

    Raises:
        DataError: unknown or unsupported set, or unknown variant.
    """
    wanted, _, variant = name.partition(":")
    plain = {_plain(one): one for one in SETS}
    if (found := plain.get(_plain(wanted))) is None:
        for what, refused in REFUSED.items():
            if one := next((one for one in refused if _plain(one) == _plain(wanted)), None):
                raise DataError(f"{PREFIX}{one} has {what}; images with one class each are needed")
        near = difflib.get_close_matches(_plain(wanted), plain, n=1, cutoff=0)
        raise DataError(f"{PREFIX}{wanted}: no such set; nearest is {plain[near[0]]}; there are {', '.join(SETS)}")
    variants = SETS[found].variants
    chosen = next((one for one in variants if _plain(one) == _plain(variant)), None)
    if chosen is None:
        raise DataError(f"{PREFIX}{found}: add one of {', '.join(f':{one}' for one in variants if one)}")
    return found, chosen


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def read_published(name: str, folder: Path, fetch: bool = False, choice: Choice = USUAL) -> ImageData:
    """Read a published set by name from a folder in torchvision's layout.

    Args:
        name: torchvision's name, with a variant after a colon; or one of `OLDER_NAMES`.
        folder: folder of the files, or download target.
        fetch: download missing files.
        choice: which part to hold out.

    Raises:
        DataError: the set is missing, incomplete, unreadable or cannot be downloaded; or a name is unknown.
    """
    found, variant = find_set(OLDER_NAMES.get(name, name))
    parts = dict(SETS[found].variants[variant])
    if name in ("mnist", "fashion-mnist"):
        parts["t10k"] = parts.pop("test")
    _, chosen = choose_parts(parts, choice, f"{PREFIX}{found}", "part {}")
    taken = [parts[part] for part in dict.fromkeys(("train", chosen.held_out))]
    if fetch:
        _fetch(found, taken, folder)
    data = replace(_read(found, taken, folder, _class_of(found)), parts=chosen)
    return _as_before(data, name) if name in OLDER_NAMES else data


def read_folder_of(found: str, folder: Path, published: str) -> ImageData:
    """Read a set whose files are in a folder, or in its subfolder with the published name."""
    inside = (folder / published if (folder / published).is_dir() else folder).resolve()
    older = next(name for name, other in OLDER_NAMES.items() if other == found)
    name, base = older, {"base_folder": inside.name}
    if found == "OxfordIIITPet":
        # torchvision joins root and a name of its own; a property keeps it from setting another folder than this
        name, base = folder.resolve().name, {"_base_folder": property(lambda _: inside, lambda *_: None)}
    kind = type(found, (_class_of(found),), base)
    data = _read(found, list(SETS[found].variants[""].values()), inside.parent, kind)
    return replace(_as_before(data, older), name=name, parts=Parts("test"))


def _as_before(data: ImageData, name: str) -> ImageData:
    """Use the names of a set and its classes from before torchvision read them, for old runs."""
    classes = data.classes
    if name == "mnist":
        classes = tuple(one.split(" - ")[0] for one in classes)
    elif name == "emnist-letters":
        classes = tuple(one.upper() + one for one in classes)
    elif name == "oxford-pets":
        first = [int(np.argmax(data.train.labels == label)) for label in range(len(classes))]
        images: Any = data.train.images
        classes = tuple(Path(images.where(index)).stem.rpartition("_")[0] for index in first)
    return replace(data, name=name, classes=classes)


def _class_of(name: str) -> Any:
    import torchvision

    if SETS[name].needs and importlib.util.find_spec(SETS[name].needs) is None:
        raise DataError(f"{PREFIX}{name} needs the package {SETS[name].needs}: pip install {SETS[name].needs}")
    return getattr(torchvision.datasets, name)


def _make(kind: Any, name: str, parts: list[Mapping[str, Any]], folder: Path, fetch: bool) -> list[Any]:
    """Make an instance of torchvision's class for each part."""
    more: dict[str, Any] = {"loader": str} if SETS[name].read in (_files, _sorted_files, _omniglot) else {}
    if SETS[name].fetched:
        more["download"] = fetch
    return [kind(folder, **arguments, **more) for arguments in parts]


def _read(name: str, parts: list[Mapping[str, Any]], folder: Path, kind: Any) -> ImageData:
    """Read the training part, and the held-out one if there is a second."""
    if not folder.is_dir():
        raise DataError(f"{PREFIX}{name}: no folder {folder}; {_remedy(name)}")
    try:
        made = _make(kind, name, parts, folder, fetch=False)
        samples = [SETS[name].read(dataset) for dataset in made]
    except Exception as error:  # torchvision checks little before it reads: damaged files raise nearly anything
        said = one_line(error, named=not isinstance(error, RuntimeError))
        reason = said.partition(" You can ")[0].rstrip(".")
        raise DataError(f"{PREFIX}{name}: cannot be read in {folder} ({reason}); {_remedy(name)}") from error
    classes, labels = _numbered(f"{PREFIX}{name}", made[0], [np.asarray(found) for _, found in samples])
    splits = [Split(images, found) for (images, _), found in zip(samples, labels, strict=True)]
    require_every_class(splits[0].labels, classes, f"{PREFIX}{name}")
    return ImageData(name, classes, splits[0], splits[-1])


def _remedy(name: str) -> str:
    if SETS[name].fetched:
        return "give the folder with its files, --data-dir FOLDER, or fetch them into one, --download FOLDER"
    return "it cannot be downloaded any more: bring its files by other means, and give their folder, --data-dir FOLDER"


def _numbered(where: str, dataset: Any, labels: list[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return the class names, and labels (N,) int64, indices into them."""
    if any(found.dtype == object for found in labels):
        raise DataError(f"{where}: a part has no labels; hold out another, --held-out NAME or --val-fraction 0.1")
    attributes = ("classes", "categories", "all_categories", "class_to_idx")
    names = list(next((found for one in attributes if (found := getattr(dataset, one, None))), ()))
    numbers = np.arange(len(names)) if names else np.unique(labels[0])
    if not names:
        names = [str(number) for number in numbers]
    elif names[0] == "N/A":  # EMNIST's letters are numbered from 1
        names, numbers = names[1:], numbers[1:]
    names = [", ".join(one) if isinstance(one, tuple) else str(one) for one in names]
    if len(set(names)) < len(names) and (codes := getattr(dataset, "wnids", ())):  # ImageNet has two kinds of crane
        names = [f"{one} ({code})" if names.count(one) > 1 else one for one, code in zip(names, codes, strict=True)]
    for found in labels:
        if wrong := sorted(set(found.tolist()) - set(numbers.tolist())):
            raise DataError(f"{where}: label {listing(map(str, wrong))} is none of the {len(names)} classes of train")
    classes = tuple(class_names(names, where))
    return classes, [np.searchsorted(numbers, found).astype(np.int64) for found in labels]


def _fetch(name: str, parts: list[Mapping[str, Any]], folder: Path) -> None:
    """Download a set unless it is complete. One process downloads, the others wait.

    Files go to a temporary folder, which is renamed when complete: torchvision itself cannot detect that unpacking was
    interrupted.
    """
    if not SETS[name].fetched or _is_there(kind := _class_of(name), name, parts, folder):
        return
    with opened_alone(folder / f".{name}.lock"), tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as made:
        if _is_there(kind, name, parts, folder):
            return
        try:
            _make(kind, name, parts, Path(made), fetch=True)
        except Exception as error:  # what urllib and torchvision say against a server, an archive or a disk
            reason = one_line(error, named=True)
            remedy = "without network, copy its files here and give their folder: --data-dir FOLDER"
            raise DataError(f"{PREFIX}{name}: cannot be downloaded to {folder} ({reason}); {remedy}") from error
        _move_into(Path(made), folder)


def _is_there(kind: Any, name: str, parts: list[Mapping[str, Any]], folder: Path) -> bool:
    try:
        _make(kind, name, parts, folder, fetch=False)
    except Exception:  # not there, or not whole
        return False
    return True


def _move_into(source: Path, target: Path) -> None:
    """Move the content of a folder into another; folders of the same name are merged."""
    for entry in source.iterdir():
        if entry.is_dir() and (target / entry.name).is_dir():
            _move_into(entry, target / entry.name)
        else:
            entry.replace(target / entry.name)
