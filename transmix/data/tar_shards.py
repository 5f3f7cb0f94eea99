"""Tar shards in the layout of WebDataset: an image and its label are adjacent and share a name."""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.class_names import class_name, read_class_names
from transmix.data.dataset import DataError, ImageData, Split, listing, printable, require_every_class
from transmix.data.encoded import EncodedImages
from transmix.data.formats import SHALLOW, SUFFIXES
from transmix.data.parts import TRAIN, USUAL, Choice, choose_parts

USUAL_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Which member is a sample's image, where others could be images too."""

IMAGE_SUFFIXES = (*USUAL_SUFFIXES, *sorted(suffix[1:] for suffix in SUFFIXES if suffix[1:] not in USUAL_SUFFIXES))
LABEL_SUFFIXES = ("cls", "json", "txt")
"""Where a sample's label is looked for, the first that has one first."""

SHARD_NAME = re.compile(r"(.+)\.(tar|tar\.\w+|tgz)", re.IGNORECASE)
LARGEST_LABEL_BYTES = 2**20
NEIGHBOURS = "image and label must be neighbours, as tar --sort=name puts them"
IMAGE = np.dtype([("shard", "i4"), ("offset", "i8"), ("size", "i8"), ("deep", "?")])
"""The position of an image's file among the shards, where its bytes begin there, how many they are, and whether it is
called as one that can have more than 8 bits a channel."""

BLOCK = 512  # of the tar format: headers take one, and everything begins at a multiple


@dataclass(frozen=True, eq=False)
class TarFiles:
    """Encoded images inside tar files, read by byte offset.

    Every read opens the file again: processes share no handle, and thousands of shards do not hit the limit of open
    files.

    Attributes:
        paths: The tar files.
        images: (N,) of `IMAGE`.
    """

    paths: tuple[str, ...]
    images: np.ndarray

    def source(self, row: int) -> bytes:
        """Read the bytes of an image.

        Raises:
            DataError: The shard was removed or truncated since it was indexed.
        """
        content = self._read(row, int(self.images["offset"][row]), int(self.images["size"][row]))
        if len(content) != self.images["size"][row]:
            raise DataError(f"{self._path(row)}: was truncated after training began; restore the file")
        return content

    def where(self, row: int) -> str:
        """Return the tar file and member name of an image; the name is read from the member's header."""
        name = self._read(row, int(self.images["offset"][row]) - BLOCK, 100).partition(b"\0")[0]
        return f"{self._path(row)} member {printable(os.fsdecode(name))}"

    def may_be_deep(self) -> np.ndarray:
        """Return which images may have more than 8 bits per channel."""
        return self.images["deep"]

    def _path(self, row: int) -> str:
        return self.paths[int(self.images["shard"][row])]

    def _read(self, row: int, offset: int, size: int) -> bytes:
        try:
            with open(self._path(row), "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"{self._path(row)}: cannot read the shard ({error.strerror}); restore it") from error


_Sample = tuple[int, int, bool, int | str]
"""Offset of an image, its size, whether it may have more than 8 bits a channel, and its label."""

_Samples = tuple[TarFiles, list[int | str]]
"""Images of a split and what their label files say: numbers, or names."""


def holds_tar_shards(root: str | os.PathLike[str]) -> bool:
    """Whether a folder has tar files named after the training split, or a folder `train` with only tar files."""
    return any(name.lower() in TRAIN for name in _parts(Path(root)))


def holds_shards_in_train(root: str | os.PathLike[str]) -> bool:
    """Whether a folder has a subfolder `train` with tar files and without class folders."""
    return any(_inside(Path(root), name) for name in os.listdir(root) if name.lower() in TRAIN)


def read_tar_shards(root: str | os.PathLike[str], choice: Choice = USUAL) -> ImageData:
    """Read a data set of tar shards, such as `imagenet-train-000000.tar` or `train/000000.tar`.

    A sample is a group of adjacent members with the same name up to the first dot: an image (`.jpg`, `.jpeg`, `.png`,
    `.webp`; else any format that the installed Pillow reads) and a label: the text of a `.cls`, else the entry `label`
    of a `.json`, else the text of a `.txt`. A label is a number from 0 on, or a class name. Other members are skipped.

    Class names come from `classnames.txt` or `classes.txt` next to the shards, one name per line; else from the labels
    of the training split, sorted; else '0', '1', ... Names are compared in Unicode's form NFC. The validation split is
    the first of `val`, `valid`, `validation`, ..., `test` that exists; it may lack classes.

    Shards must be local files; they are read by offset, not streamed. Headers and labels are read once, when the data
    set is opened (about 15,000 samples a second, in every process); the index takes 29 bytes per sample. So, unlike
    with WebDataset's shuffle buffer, each epoch is a full permutation, split over processes and workers, and a run
    resumes at the exact sample. Compressed tar files cannot be read by offset and are rejected.

    Args:
        root: The folder with the shards.
        choice: Which part to hold out.

    Raises:
        DataError: If a split or a shard of a numbered series is missing, a shard is cut off, compressed or damaged, a
            sample has no image or label or two of them, a label has no class, or a class has no training image.
    """
    root = Path(root)
    present = _parts(root)
    train, parts = choose_parts(present, choice, root, "shards {}-*.tar")
    samples = {name: _read_samples(_whole(root, name, present[name])) for name in (train, parts.held_out)}
    classes = read_class_names(root) or _classes(*samples[train])
    of_train, of_val = (_split(*samples[name], classes) for name in (train, parts.held_out))
    require_every_class(of_train.labels, classes, samples[train][0].paths[0])
    return ImageData(root.resolve().name, classes, of_train, of_val, parts=parts)


def _parts(root: Path) -> dict[str, list[Path]]:
    """List the shards of each part: the part's name is a word of the file name, or the folder name."""
    found = {name: shards for name in sorted(os.listdir(root)) if (shards := _inside(root, name))}
    for path in _tars(root):
        for word in _words(path):
            found.setdefault(word, []).append(path)
    return found


def _inside(root: Path, split: str) -> list[Path]:
    """List the tar files in the split's own folder; empty if it has subfolders, which would be classes."""
    folder = root / split
    if not folder.is_dir() or any(entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith(".")):
        return []
    return _tars(folder)


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name) and path.is_file())


def _words(path: Path) -> list[str]:
    """Split a file name into words that may name a part; for a training shard, only that word."""
    words = re.split(r"[-_.]", path.name.lower())
    return [word for word in words if word in TRAIN] or words


def _whole(root: Path, split: str, shards: list[Path]) -> list[Path]:
    """Check that the shards of a split can be read by offset and that no number is missing."""
    if len({path.parent for path in shards}) > 1:
        raise DataError(f"{root}: shards of {split} both here and in {root / split}; move one of them away")
    if compressed := [path.name for path in shards if path.suffix.lower() != ".tar"]:
        remedy = "decompress them, for example with gunzip: images are compressed already"
        raise DataError(f"{root}: compressed shards ({listing(compressed, 3)}) cannot be read by offset; {remedy}")
    series: dict[str, set[int]] = {}
    for path in shards:
        if match := re.fullmatch(r"(.*?)(\d+)\.tar", path.name, re.IGNORECASE):
            series.setdefault(match[1], set()).add(int(match[2]))
    for start, numbers in series.items():
        missing = [f"{start}{number}" for number in range(min(numbers), max(numbers)) if number not in numbers]
        if missing:
            why = f"{listing(missing)} (zeros left out); complete the download, or rename the rest to leave no gap"
            raise DataError(f"{shards[0].parent}: shards are missing between the first and the last: {why}")
    return shards


def _read_samples(shards: list[Path]) -> _Samples:
    tables, labels = [], []
    for number, path in enumerate(shards):
        rows = [((number, *place), label) for *place, label in _index(path)]
        if not rows:
            raise DataError(f"{path}: no samples; remove the file or fetch it again")
        tables.append(np.array([row for row, _ in rows], dtype=IMAGE))
        labels += [label for _, label in rows]
    return TarFiles(tuple(map(str, shards)), np.concatenate(tables)), labels


def _index(path: Path) -> Iterator[_Sample]:
    """Yield the index entry of each sample in a shard."""
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in groupby(_members(tar, path), key=lambda found: found[0]):
                yield _sample(tar, f"{path} sample {key}", [(suffix, member) for _, suffix, member in members])
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{path}: truncated, or not a tar file ({error}); fetch it again") from error


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, suffix, member) of each file that can belong to a sample, as WebDataset names them."""
    length, end = path.stat().st_size, 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else the archive's whole directory would stay in memory
        if member.offset < end or member.size < 0 or member.offset_data + member.size > length:
            raise tarfile.ReadError(f"the data of {member.name} exceeds the end of the file")
        end = member.offset_data + member.size
        folder, slash, file = member.name.rpartition("/")
        key, dot, suffix = file.partition(".")
        if member.isdir() or not (key and dot) or key.startswith("__"):
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise DataError(f"{path}: {member.name} is a link or a special file; write it as a plain one")
        yield folder + slash + key, suffix.lower(), member
    # tarfile takes damage between two members for the end of the archive
    with path.open("rb") as file:
        file.seek(tar.offset)
        if file.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError("no end marker after the last member")


def _sample(tar: tarfile.TarFile, where: str, members: list[tuple[str, tarfile.TarInfo]]) -> _Sample:
    found: dict[str, tarfile.TarInfo] = {}
    for suffix, member in members:
        if suffix in found:
            raise DataError(f"{where}: two members .{suffix} for one sample; give each sample its own name")
        found[suffix] = member
    usual, others = ([suffix for suffix in known if suffix in found] for known in (USUAL_SUFFIXES, IMAGE_SUFFIXES))
    images = usual or others
    if len(images) != 1:
        what = f"more than one image ({', '.join(images)})"
        if not images:
            what = f"no image that is read (.{', .'.join(USUAL_SUFFIXES)} and others) among .{', .'.join(found)}"
        raise DataError(f"{where}: {what}; {NEIGHBOURS}")
    labels = (_label(tar, where, suffix, found[suffix]) for suffix in LABEL_SUFFIXES if suffix in found)
    if (label := next((one for one in labels if one is not None), None)) is None:
        raise DataError(f"{where}: no label (.cls, .json with an entry 'label', .txt); {NEIGHBOURS}")
    image = found[images[0]]
    return image.offset_data, image.size, f".{images[0]}" not in SHALLOW, label


def _label(tar: tarfile.TarFile, where: str, suffix: str, member: tarfile.TarInfo) -> int | str | None:
    """Read a label from the member with a suffix; None if there is none."""
    if member.size > LARGEST_LABEL_BYTES:
        raise DataError(f"{where}: .{suffix} has {member.size} bytes, too many for a label")
    file: Any = tar.extractfile(member)  # a plain file, as `_members` has checked
    try:
        text = file.read().decode("utf-8").strip()
        value = json.loads(text) if suffix == "json" else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot read .{suffix} ({error}); write it as UTF-8 text") from error
    if suffix == "json":
        value = value.get("label") if isinstance(value, dict) else None
        if value is None:
            return None
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else class_name(value)
    if value == "" or isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: the label in .{suffix} is {value!r}; write a number from 0 on, or a class name")
    return value


def _classes(files: TarFiles, labels: list[int | str]) -> tuple[str, ...]:
    """Take class names from the labels, if there is no file with names."""
    numbers = [label for label in labels if isinstance(label, int)]
    if len(numbers) == len(labels):
        # no more classes than images, or one absurd label would ask for as many names
        return tuple(str(number) for number in range(min(max(numbers) + 1, len(numbers))))
    if numbers:
        first = labels.index(numbers[0])
        remedy = "name all classes in a file classnames.txt beside the shards"
        raise DataError(f"{files.where(first)}: label {numbers[0]} is a number, but others are names; {remedy}")
    return tuple(sorted({str(label) for label in labels}))


def _split(files: TarFiles, labels: list[int | str], classes: tuple[str, ...]) -> Split:
    position = {name: index for index, name in enumerate(classes)}
    found = [label if isinstance(label, int) else position.get(label, -1) for label in labels]
    wrong = next((index for index, label in enumerate(found) if not 0 <= label < len(classes)), None)
    if wrong is not None:
        raise DataError(f"{files.where(wrong)}: label {labels[wrong]} is not among the {len(classes)} classes")
    return Split(EncodedImages(files, np.arange(len(found))), np.array(found, dtype=np.int64))
