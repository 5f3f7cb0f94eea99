"""Atomic writes: a file is complete or absent, even after a power failure."""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from transmix.runs.error import RunError

WRITE_ERRORS = (OSError, SafetensorError)
"""What writing a file raises when the disk does not take it."""

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there"),
    **dict.fromkeys((errno.EROFS, errno.EIO), "check the disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check who may write there"),
    errno.ENOENT: "if the folder was moved or removed, put it back",
}


def write_file(path: Path, content: bytes) -> None:
    """Write a file and fsync it; its name is on disk only after `sync` of its folder."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically: readers see the old or the new content, never a part."""
    with _in_place_of(path) as temporary:
        write_file(temporary, content)  # on disk before it has the name, else a power cut may leave an empty file there


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` at the end; after any error `path` is as it was."""
    with _in_place_of(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """Give a temporary path whose file takes the place of `path` at the end; after any error it is removed."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    # Bytes of a file's name that are no UTF-8 come as lone surrogates, which JSON can hold as \udcXX alone.
    replace_file(path, json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace"))


def sync(path: Path) -> None:
    """Call fsync on a file, or on a folder (for the names in it)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; there is nothing better to do on those.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and fsync their names."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    with suppress(PermissionError):  # a folder above may be closed to reading
        sync(path.parent)


def why(error: Exception) -> str:
    """Return the message of the system error, with a remedy."""
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # as safetensors puts it
        number = int(found[1])
    if number is None:
        return str(error)
    return os.strerror(number) + (f" ({REMEDIES[number]})" if number in REMEDIES else "")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an error while writing a file of a run into a RunError that names the file."""
    try:
        yield
    except WRITE_ERRORS as error:
        raise RunError(f"cannot write {path}: {why(error)}; --resume continues from the last checkpoint", 1) from error
