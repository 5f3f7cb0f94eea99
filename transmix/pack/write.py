"""Pack a data set to a folder, shard by shard; what stopped goes on after its last whole shard."""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from transmix.data.bad_images import LIST
from transmix.data.dataset import DataError, ImageData, class_difference, listing, too_many
from transmix.data.encoded import EncodedImages
from transmix.data.grey import EACH_IMAGE
from transmix.data.loader import choose_workers, ignore_signals, in_shared_memory
from transmix.data.packed import (
    IMAGE,
    INDEX,
    PackedIndex,
    Shard,
    Skipped,
    holds_packed,
    open_shard,
    read_index,
    read_packed,
)
from transmix.data.parts import USUAL, Choice
from transmix.error import TransMixError
from transmix.pack.images import PackedImage, Packing
from transmix.pack.shards import Row, opened_shard, schema_of
from transmix.pack.source import Source, Sources, open_sources
from transmix.printable import printable
from transmix.runs.atomic_write import WRITE_ERRORS, make_folder, replace_file, why, write_json

AT_ONCE = 8
"""Images that a worker packs before it hands them over."""

MEASURED = 64
"""So many images tell how much faster packed ones are decoded."""


class PackError(TransMixError):
    """Packing stopped; the message says why, and how it goes on."""

    code = 1


@dataclass(frozen=True)
class PackSettings:
    """How a data set is packed. The same settings and data give the same files, byte for byte.

    Attributes:
        short_side: Larger training images are resized to this shorter side, in pixels.
        quality: JPEG quality of resized images.
        val_short_side: As `short_side`, for all other parts; None: they keep their bytes.
        masks: Pack foreground masks where there are any.
        shard_mb: A file ends at so many MB of images.
    """

    short_side: int = 288
    quality: int = 90
    val_short_side: int | None = None
    masks: bool = True
    shard_mb: int = 1000


@dataclass(frozen=True)
class Summary:
    """What a packed folder holds.

    Attributes:
        index: Its index.
        source_bytes: Bytes of the images in the source.
        packed_bytes: Bytes of the files.
        decoding: Time to read and decode packed training images, divided by that of the source's; None if those are
            in memory already.
        measured: Number of images that tell it.
        notes: Notes on the source, one line each.
    """

    index: PackedIndex
    source_bytes: int
    packed_bytes: int
    decoding: float | None = None
    measured: int = 0
    notes: tuple[str, ...] = ()

    def count(self, of: str) -> int:
        """Return the sum of a number of the shards: 'images', 'resized'."""
        return sum(getattr(shard, of) for shard in self.index.shards)

    @property
    def skipped(self) -> list[Skipped]:
        """The images that cannot be read and are not packed."""
        return _skipped(self.index)


def pack(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: PackSettings = PackSettings(),
    *,
    choice: Choice = USUAL,
    places: dict[str, Any] | None = None,
    workers: int | None = None,
    max_bad: int = 0,
    progress: bool = True,
) -> Summary:
    """Pack a data set to a folder that `open_data` reads; or continue where this stopped.

    Args:
        data: Data set, as for `--data`.
        out: The folder: absent, empty, or begun with the same settings and data.
        settings: How.
        choice: Which part to hold out, or which fraction of the training images; and which columns to read.
        places: `download` or `data_dir`, as for `open_data`.
        workers: Number of processes; None: chosen from the CPU cores. The files do not depend on it.
        max_bad: Skip up to so many unreadable images; 0: they are an error.
        progress: Show a progress bar, if stderr is a terminal.

    Raises:
        DataError: As `open_data`; images cannot be read; or the folder holds something else.
        PackError: A file cannot be written, or another process packs to the folder.

    Example:
        >>> pack("PETS", "PETS_288").count("images")  # doctest: +SKIP
        3680
    """
    out, root = Path(out), Path(data).expanduser()
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{out} is in the data set itself; choose a folder outside {root}")
    _require_usable(out)
    sides = settings.short_side, settings.val_short_side
    sources = open_sources(str(data), replace(choice, in_order=True), sides, settings.masks, places or {})
    about = {**asdict(settings), "held_out": choice.held_out if choice.held_out != USUAL.held_out else None}
    about |= {name: getattr(choice, name) for name in ("val_fraction", "image_column", "label_column")}
    fresh = PackedIndex(str(data), _json(about), sources.classes, tuple(source.part for source in sources.parts))
    with _writing(out):
        make_folder(out)
    with _alone(out):
        packer = _Packer(out, settings, choose_workers(workers, False, 1), max_bad)
        packer.index = packer.begun(fresh, sources) if holds_packed(out) else fresh
        packer.run(sources, progress)
    packed_bytes = sum(shard.size for shard in packer.index.shards)
    source_bytes = sum(shard.source_bytes for shard in packer.index.shards)
    return Summary(
        packer.index, source_bytes, packed_bytes, *measure(out, sources.parts[0], packer.index), sources.notes
    )


def _json(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as they come back from JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _require_usable(out: Path) -> None:
    """Raise a DataError unless the folder is absent, empty, or was begun."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder")
    if out.is_dir() and not holds_packed(out):
        others = [entry.name for entry in os.scandir(out) if not entry.name.endswith(".tmp")]
        if others:
            raise DataError(
                f"{out}: holds other files ({listing(map(printable, sorted(others)), 3)}); give a new folder"
            )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one line."""
    try:
        yield
    except WRITE_ERRORS as error:
        raise PackError(f"cannot write {path}: {why(error)}; the same command continues after the last file") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes from packing to the folder."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise PackError(f"{out}: another process is packing to it; wait for it, or stop it") from error
    finally:
        os.close(folder)


class _UnreadableError(Exception):
    """The first unreadable image, where none may be."""

    def __init__(self, image: Skipped):
        self.image = image


class _Packer:
    """Writes the files of a folder one after the other, and its index after each."""

    def __init__(self, out: Path, settings: PackSettings, workers: int, max_bad: int):
        self.out, self.settings, self.workers, self.max_bad = out, settings, workers, max_bad
        self.index: PackedIndex

    def begun(self, fresh: PackedIndex, sources: Sources) -> PackedIndex:
        """Return the index of a folder that was begun, if it was with the same settings and data.

        Raises:
            DataError: The message says what differs.
        """
        found = read_index(self.out)
        if differ := _difference(found, fresh):
            raise DataError(f"{self.out} was begun {differ}; pack as then, or give a new folder")
        for shard in found.shards:
            self._check_last(shard, next(one for one in sources.parts if one.part.name == shard.part))
        return found

    def _check_last(self, shard: Shard, source: Source) -> None:
        """Pack the last image of a file again; raise a DataError if other bytes come out."""
        last = shard.end - 1
        table = open_shard(self.out, shard)
        if any(bad.position == last for bad in shard.skipped):
            return
        stored = table[IMAGE][shard.images - 1].as_py()
        again = Packing(source.part.short_side, self.settings.quality)[source.task(last)]
        if stored != {"bytes": again.content, "path": source.path(last)}:
            why = "the images changed since, or Pillow did"
            raise DataError(
                f"{self.out / shard.file}: {source.split.where(last)} is packed otherwise now: {why}; pack again"
            )

    def run(self, sources: Sources, progress: bool) -> None:
        """Pack what is missing."""
        if self.index.complete:
            return
        self._save()
        done = sum(shard.end - shard.first for shard in self.index.shards)
        total = sum(part.images for part in self.index.parts)
        with tqdm(total=total, initial=done, unit=" images", disable=None if progress else True) as bar:
            for position, source in enumerate(sources.parts):
                shards = self.index.of(source.part.name)
                start = shards[-1].end if shards else 0
                with closing(self._packed(source, start, bar)) as images:
                    try:
                        while start < source.part.images or not self.index.of(source.part.name):
                            start = self._write_shard(source, start, images)
                            if bar.disable and progress:
                                say = f"{start:,} of {source.part.images:,} images of {source.part.name} are packed"
                                print(say, flush=True)
                    except _UnreadableError as error:
                        later = iter(sources.parts[position + 1 :])
                        raise self._refuse(error.image, source, images, later, bar) from None
        self.index = replace(self.index, complete=True)
        self._list(_skipped(self.index))
        self._save()

    def _packed(self, source: Source, start: int, bar: Any) -> Generator[tuple[int, PackedImage]]:
        """Yield each image from an index on, in order, with its index."""
        loader = DataLoader(
            Packing(source.part.short_side, self.settings.quality),  # type: ignore[arg-type]
            batch_sampler=source.tasks(start, AT_ONCE),  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=list,
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),
        )
        for batch in in_shared_memory(iter(loader)):
            for image in batch:
                if image.failure:
                    raise DataError(image.failure)
                yield start, image
                start += 1
                bar.update()

    def _write_shard(self, source: Source, first: int, images: Iterator[tuple[int, PackedImage]]) -> int:
        """Write the next file; return the index after its last image."""
        part, limit = source.part.name, self.settings.shard_mb * 10**6
        path = self.out / f"{part}-{len(self.index.of(part)):05d}.arrow"
        skipped, deep, sizes, end = [], [], [], first
        with (
            _writing(path),
            opened_shard(path, schema_of(self.index.classes, source.masks is not None)) as writer,
        ):
            for index, image in images:
                end = index + 1
                if image.reason:
                    skipped.append(Skipped(index, printable(source.split.where(index)), image.reason))
                    self._allow(skipped)
                    continue
                if image.deep:
                    deep.append(writer.images)
                sizes.append((image.source_bytes, image.resized))
                writer.add(Row(image.content, source.path(index), int(source.split.labels[index]), image.mask))
                if writer.content_bytes >= limit:
                    break
        about = sum(size for size, _ in sizes), sum(resized for _, resized in sizes), tuple(deep), tuple(skipped)
        shard = Shard(path.name, part, first, end, writer.images, writer.size, writer.sha256, *about)
        self.index = replace(self.index, shards=(*self.index.shards, shard))
        self._save()
        return end

    def _allow(self, new: list[Skipped]) -> None:
        """Raise an error if more images are bad than may be."""
        if self.max_bad == 0:
            raise _UnreadableError(new[0])
        skipped = [*_skipped(self.index), *new]
        if len(skipped) > self.max_bad:
            raise too_many(self.max_bad, (bad.where for bad in skipped))

    def _refuse(
        self,
        first: Skipped,
        source: Source,
        images: Iterator[tuple[int, PackedImage]],
        later: Iterator[Source],
        bar: Any,
    ) -> DataError:
        """Look at all images that are left, without packing them; return the error that names the unreadable ones."""
        found = [first, *_unreadable(source, images)]
        for one in later:
            found += _unreadable(one, self._packed(one, 0, bar))
        self._list(found)
        remedy = "repair or remove them, or leave them out: --on-bad-image skip"
        names = listing((f"{bad.where} ({bad.reason})" for bad in found), 5)
        return DataError(f"{len(found)} images cannot be read: {names}; {self.out / LIST} lists them; {remedy}")

    def _list(self, bad: list[Skipped]) -> None:
        """Write the list of unreadable images; remove one of before if there are none."""
        path = self.out / LIST
        with _writing(path):
            if bad:
                lines = "".join(f"{one.where}\t{printable(one.reason)}\n" for one in bad)
                replace_file(path, lines.encode(errors="backslashreplace"))
            else:
                path.unlink(missing_ok=True)

    def _save(self) -> None:
        with _writing(self.out / INDEX):
            write_json(self.out / INDEX, self.index.as_json())


def _skipped(index: PackedIndex) -> list[Skipped]:
    return [bad for shard in index.shards for bad in shard.skipped]


def _unreadable(source: Source, images: Iterator[tuple[int, PackedImage]]) -> list[Skipped]:
    """Return those of the images that cannot be read."""
    return [
        Skipped(index, printable(source.split.where(index)), image.reason) for index, image in images if image.reason
    ]


def _difference(found: PackedIndex, fresh: PackedIndex) -> str:
    """Describe what differs between the settings and data of a folder and those asked for; '' if nothing does."""
    for name in sorted({*found.settings, *fresh.settings}):
        before, now = found.settings.get(name), fresh.settings.get(name)
        if before != now:
            return f"with --{name.replace('_', '-')} {before}, not {now}"
    if found.classes != fresh.classes:
        what = class_difference(found.classes, fresh.classes) or "another order"
        return f"from {found.source}, which has other classes than {fresh.source} ({what})"
    parts = {part.name: part for part in found.parts}
    if [*parts] != [part.name for part in fresh.parts]:
        now = listing(part.name for part in fresh.parts)
        return f"from {found.source} with parts {listing(parts)}, not {now}"
    for part in fresh.parts:
        before = parts[part.name]
        if before.images != part.images:
            return f"from {found.source} with {before.images} images in {part.name}, not {part.images}"
        if before.fingerprint != part.fingerprint:
            return f"from {found.source}, whose images or labels in {part.name} are others than now"
    return ""


def measure(out: Path, source: Source, index: PackedIndex) -> tuple[float | None, int]:
    """Time reading and decoding packed images and the source's, in turns, on evenly spaced images.

    Returns:
        Time of the packed ones divided by that of the source's, and the number of images; None and 0 if those are in
        memory already.
    """
    shards = index.of(source.part.name)
    skipped = [bad.position for shard in shards for bad in shard.skipped]
    positions = np.setdiff1d(np.arange(source.part.images), skipped)
    if not source.encoded or not len(positions):
        return None, 0
    rows = np.unique(np.linspace(0, len(positions) - 1, min(MEASURED, len(positions))).astype(int))
    before: Any = source.split.images
    opened: ImageData = read_packed(out, Choice((source.part.name,), for_evaluation=True))
    after: Any = opened.val.images
    assert isinstance(after, EncodedImages)
    variants = [(replace(before, grey=EACH_IMAGE), positions), (replace(after, grey=EACH_IMAGE), np.arange(len(after)))]
    spent = [0.0, 0.0]
    for row in rows:
        for images, place in variants:
            images[int(place[row])]  # a first reading from the disk is not what is compared
        times = ([], [])
        for one in (0, 1, 1, 0):
            images, place = variants[one]
            begun = time.perf_counter()
            images[int(place[row])]
            times[one].append(time.perf_counter() - begun)
        spent = [total + min(taken) for total, taken in zip(spent, times, strict=True)]
    return spent[1] / spent[0], len(rows)
