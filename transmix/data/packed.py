"""Packed data sets: what `transmix pack` writes, Arrow files that are memory-mapped and read by index."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transmix.data.dataset import DataError, ImageData, Split, require_every_class
from transmix.data.encoded import EncodedImages
from transmix.data.parts import USUAL, Choice, choose_parts, split_of
from transmix.data.tables import ArrowFiles
from transmix.error import one_line

INDEX = "packed.json"
"""The file in a packed folder that says what is in the others; it is replaced after each whole shard."""

LAYOUT = f"packed images ({INDEX})"
"""What this layout is called."""

VERSION = 1

IMAGE, LABEL, MASK = "image", "label", "mask"
"""The columns. Images and masks are structs of `bytes` and `path`, as Hugging Face's type Image."""


@dataclass(frozen=True)
class Skipped:
    """An image of the source that cannot be read and is not packed: its index in its part, its name and the reason."""

    position: int
    where: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """One Arrow file, with the images of a piece of the source.

    Attributes:
        file: Name of the file.
        part: The part that its images belong to.
        first: Index of its first image in the source's part.
        end: Index after its last one.
        images: Number of images in the file.
        size: Bytes of the file.
        sha256: Of the file.
        source_bytes: Bytes that the images take in the source.
        resized: Number of images that are smaller than in the source.
        deep: Rows of images that may have more than 8 bits per channel.
        skipped: Images of the piece that are not in the file.
    """

    file: str
    part: str
    first: int
    end: int
    images: int
    size: int
    sha256: str
    source_bytes: int
    resized: int
    deep: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class PackedPart:
    """One part of a packed data set, as it is in the source.

    Attributes:
        name: Its name in the source.
        images: Number of images in the source.
        short_side: Larger images are resized to this shorter side; None: all are as they were.
        fingerprint: Of names and labels, from `subset.fingerprint`.
        folder: What stands before the path of an image in its name; '' if the path is the whole name.
        told_apart_by: How `subset.fingerprint` tells its images apart: by path, by row, or not at all.
    """

    name: str
    images: int
    short_side: int | None
    fingerprint: str
    folder: str = ""
    told_apart_by: Literal["path", "row", ""] = ""


@dataclass(frozen=True)
class PackedIndex:
    """What a packed folder holds.

    Attributes:
        source: The data set that was packed, as given.
        settings: How: option -> value.
        classes: Class names.
        parts: The parts, the training part first.
        shards: The whole files so far, in order.
        complete: Whether these are all.
    """

    source: str
    settings: dict[str, Any]
    classes: tuple[str, ...]
    parts: tuple[PackedPart, ...]
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    def of(self, part: str) -> list[Shard]:
        """Return the shards of a part."""
        return [shard for shard in self.shards if shard.part == part]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, read by `read_index`."""
        return {"packed_images": VERSION, **asdict(self)}


def read_index(root: Path) -> PackedIndex:
    """Read the index of a packed folder.

    Raises:
        DataError: It is damaged, or of a newer version.
    """
    path = root / INDEX
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["packed_images"] != VERSION:
            raise DataError(f"{path}: version {found['packed_images']}, and only {VERSION} is read; update transmix")
        shards = tuple(
            Shard(**one | {"deep": tuple(one["deep"]), "skipped": tuple(Skipped(**bad) for bad in one["skipped"])})
            for one in found["shards"]
        )
        parts = tuple(PackedPart(**one) for one in found["parts"])
        return PackedIndex(
            found["source"], found["settings"], tuple(found["classes"]), parts, shards, found["complete"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot read the index ({one_line(error, named=True)}); pack again") from error


@dataclass(frozen=True, eq=False)
class PackedFiles:
    """The encoded images of a packed part, memory-mapped: what is read takes no memory of the process.

    Attributes:
        root: The packed folder.
        part: The part.
        stored: The images by row.
        paths: N paths in the source, a pyarrow ChunkedArray.
        masks: N encoded masks, a pyarrow ChunkedArray; None without masks.
        deep: (N,) bool, which images may have more than 8 bits per channel.
    """

    root: Path
    part: PackedPart
    stored: ArrowFiles
    paths: Any
    masks: Any
    deep: np.ndarray

    def source(self, row: int) -> bytes | Path:
        """Return the encoded image."""
        return self.stored.source(row)

    def where(self, row: int) -> str:
        """Name the file and row of an image, and the image in the source."""
        return f"{self.stored.where(row)} ({os.path.join(self.part.folder, self.paths[row].as_py())})"

    def may_be_deep(self) -> np.ndarray:
        """Return which images may have more than 8 bits per channel."""
        return self.deep

    def names(self, rows: np.ndarray) -> list[Any] | None:
        """Return what tells the images of these rows apart, the same as in the source; None: nothing did."""
        if self.part.told_apart_by == "path":
            return [os.fsencode(self.paths[int(row)].as_py()) for row in rows]
        return rows.tolist() if self.part.told_apart_by == "row" else None

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process that is not forked maps the files again: pickled, they would be copied
        return _files_of, (self.root, self.part.name)


def holds_packed(root: str | os.PathLike[str]) -> bool:
    """Whether a folder holds what `transmix pack` writes."""
    return Path(root, INDEX).is_file()


def read_packed(root: str | os.PathLike[str], choice: Choice = USUAL) -> ImageData:
    """Open a packed data set: images are read by index from memory-mapped files, and decoded on indexing.

    Args:
        root: The folder that `transmix pack` wrote.
        choice: Which part to hold out.

    Raises:
        DataError: The folder is not complete, a file is missing or of another size, or there is no such part.
    """
    root = Path(root)
    index = read_index(root)
    if not index.complete:
        done, count = sum(shard.end - shard.first for shard in index.shards), sum(part.images for part in index.parts)
        command = f"transmix pack {shlex.quote(index.source)} {shlex.quote(str(root))}"
        raise DataError(f"{root}: {done} of {count} images are packed; to continue, with the same options: {command}")
    train, parts = choose_parts([part.name for part in index.parts], choice, root, "part {}")
    splits = {name: _split(root, index, name) for name in dict.fromkeys((train, parts.held_out))}
    if not choice.for_evaluation:
        require_every_class(splits[train].labels, index.classes, f"{root} {train}")
    notes = _notes(index, parts.held_out if choice.val_fraction is None else None)
    return ImageData(root.resolve().name, index.classes, splits[train], splits[parts.held_out], notes, parts=parts)


def _notes(index: PackedIndex, held_out: str | None) -> tuple[str, ...]:
    """Return notes on how the images were packed; `held_out` is None if a fraction of the training part is."""
    what = lambda part: "whole" if part.short_side is None else f"resized to a shorter side of {part.short_side}"  # noqa: E731
    notes = [f"packed from {index.source}: " + ", ".join(f"{part.name} {what(part)}" for part in index.parts)]
    scored = [part for part in index.parts if part.name == held_out or (held_out is None and not _is_held_out(part))]
    if any(part.short_side is not None for part in scored):
        notes.append(
            "the held-out images are resized too: scores differ a little from those on whole images, "
            "which transmix pack keeps where they are a part, or with its own --val-fraction"
        )
    return tuple(notes)


def _is_held_out(part: PackedPart) -> bool:
    return split_of(part.name) in ("val", "test")


def _split(root: Path, index: PackedIndex, name: str) -> Split:
    files, labels = _open_part(root, index, name)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(index.classes):
        raise DataError(f"{root}: a label of {name} is not among the {len(index.classes)} classes; {_doctor(root)}")
    return Split(EncodedImages(files, np.arange(len(labels))), labels)


def _files_of(root: Path, name: str) -> PackedFiles:
    return _open_part(root, read_index(root), name)[0]


def _open_part(root: Path, index: PackedIndex, name: str) -> tuple[PackedFiles, np.ndarray]:
    """Map the files of a part; return them and the labels (N,) int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shards = index.of(name)
    for shard in shards:
        if problem := _wrong_size(root, shard):
            raise DataError(f"{root / shard.file}: {problem}; restore it, or pack again")
    table = pa.concat_tables([open_shard(root, shard) for shard in shards])
    field = lambda column, name: pc.call_function("struct_field", [table[column]], pc.StructFieldOptions(name))  # noqa: E731
    first_rows = np.cumsum([0, *(shard.images for shard in shards)])
    deep = np.zeros(first_rows[-1], dtype=bool)
    for first, shard in zip(first_rows, shards, strict=False):
        deep[first + np.array(shard.deep, dtype=np.int64)] = True
    stored = ArrowFiles(field(IMAGE, "bytes"), tuple(str(root / shard.file) for shard in shards), first_rows[:-1])
    masks = field(MASK, "bytes") if MASK in table.column_names else None
    part = next(one for one in index.parts if one.name == name)
    return PackedFiles(root, part, stored, field(IMAGE, "path"), masks, deep), table[LABEL].to_numpy()


def open_shard(root: Path, shard: Shard) -> Any:
    """Map one file and return its pyarrow Table; the bytes of images are not read.

    Raises:
        DataError: It is damaged.
    """
    import pyarrow as pa

    path = root / shard.file
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            table = stream.read_all()
        table.validate(full=True)  # a wrong offset would read beyond the file
        columns = {IMAGE, LABEL} <= {*table.column_names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Arrow file ({one_line(error)}); {_doctor(root)}") from error
    if not columns or table.num_rows != shard.images:
        raise DataError(f"{path}: {table.num_rows} rows, expected {shard.images}; {_doctor(root)}")
    return table


def _doctor(root: Path) -> str:
    return f"transmix doctor {shlex.quote(str(root))} finds damaged files; pack again"


def _wrong_size(root: Path, shard: Shard) -> str:
    """Describe what is wrong with a file's size; '' if nothing is."""
    try:
        size = os.stat(root / shard.file).st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if size == shard.size else f"{size} bytes, but {shard.size} were packed"


def damaged_shards(root: Path) -> Iterator[tuple[Path, str, int]]:
    """Read every file and compare its SHA-256; yield (path, problem or '', bytes) of each."""
    for shard in read_index(root).shards:
        path = root / shard.file
        yield path, _wrong_size(root, shard) or _wrong_sum(path, shard.sha256), shard.size


def _wrong_sum(path: Path, expected: str) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for piece in iter(partial(file.read, 2**20), b""):
                digest.update(piece)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest.hexdigest() == expected else "its content is not what was packed"
