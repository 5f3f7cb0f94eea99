"""Archives unpacked as if their author were hostile: plain files below one folder, and not too many bytes."""

import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from transmix.data.dataset import DataError

MOST_MEMBERS = 100_000


def unpack(archive: Path, into: Path, limit: int, members: str = "") -> None:
    """Unpack a tar (plain or compressed) or zip archive into a folder.

    Every member must be a plain file or a folder, under a relative name without `..`, whether it is wanted or not.
    Modes, owners and times are not taken over.

    Args:
        archive: The file; its content tells the kind.
        into: An existing, empty folder; what is in it after an error is not to be used.
        limit: The most bytes that the unpacked archive may have, headers included.
        members: Only members whose name begins with this are written.

    Raises:
        DataError: If the archive breaks these rules, is damaged, or holds no member that is wanted.
    """
    written = 0
    try:
        for name, copy in _zip_members(archive, limit) if zipfile.is_zipfile(archive) else _tar_members(archive, limit):
            if name.startswith(members):
                path = into / PurePosixPath(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    copy(file)
                written += 1
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(
            f"{archive}: two members are called {Path(str(error.filename)).name}; nothing is used"
        ) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise DataError(f"{archive}: damaged, or no tar or zip archive ({error}); nothing is used of it") from error
    if not written:
        raise DataError(f"{archive}: no member {members or 'at all'}; nothing is used of it")


Member = tuple[str, Callable[[IO[bytes]], None]]
"""The name of a plain file, and what writes its content into an open file."""


def _tar_members(archive: Path, limit: int) -> Iterator[Member]:
    with (
        archive.open("rb") as file,
        _Bounded(archive, file, limit) as source,
        # a stream, so that whatever tarfile reads, headers of any length included, is counted after decompression
        tarfile.open(fileobj=source, mode="r|") as tar,
    ):
        for number, member in enumerate(tar):
            _require(number < MOST_MEMBERS, archive, member.name, f"comes after {MOST_MEMBERS} others")
            _require_inside(archive, member.name)
            _require(not (member.issym() or member.islnk()), archive, member.name, "is a link")
            is_plain = member.isdir() or (member.isreg() and not member.issparse())
            _require(is_plain, archive, member.name, "is neither a plain file nor a folder")
            _require(member.size <= limit, archive, member.name, f"has {member.size} bytes, {limit} are the most")
            if (content := tar.extractfile(member)) is not None:
                yield member.name, lambda out, content=content: shutil.copyfileobj(content, out, 2**20)


class _Bounded(io.RawIOBase):
    """The bytes of a tar file, decompressed as they are read, up to a limit."""

    def __init__(self, archive: Path, file: IO[bytes], limit: int):
        self.archive, self.left, self.limit = archive, limit, limit
        self.source = _decompressed(file)

    def read(self, size: int = -1) -> bytes:
        content = self.source.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise DataError(f"{self.archive}: unpacks to more than {self.limit} bytes; nothing is used of it")
        return content


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    import bz2
    import gzip
    import lzma

    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)  # type: ignore[return-value]
    return lzma.LZMAFile(file) if start == b"\xfd7zXZ\0" else file  # type: ignore[return-value]


def _zip_members(archive: Path, limit: int) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for extra in members[MOST_MEMBERS:]:
            _require(False, archive, extra.filename, f"comes after {MOST_MEMBERS} others")
        total = sum(member.file_size for member in members)
        if total > limit:
            raise DataError(f"{archive}: unpacks to {total} bytes, more than {limit}; nothing is used of it")
        for member in members:
            name = member.orig_filename  # as it stands in the archive; zipfile would cut it at a NUL
            _require_inside(archive, name)
            kind = stat.S_IFMT(member.external_attr >> 16)
            _require(kind != stat.S_IFLNK, archive, name, "is a link")
            _require(kind in (0, stat.S_IFREG, stat.S_IFDIR), archive, name, "is neither a plain file nor a folder")
            _require(not member.flag_bits & 1, archive, name, "is encrypted")
            if not member.is_dir():
                yield name, lambda out, member=member: _copy_zipped(file, member, out)


def _copy_zipped(file: zipfile.ZipFile, member: zipfile.ZipInfo, out: IO[bytes]) -> None:
    try:
        content = file.open(member)
    except OSError as error:  # from seeking to where the member should be
        raise zipfile.BadZipFile(f"{member.filename} is not where the archive says") from error
    with content:  # gives no more than the size declared, and checks the checksum at its end
        shutil.copyfileobj(content, out, 2**20)


def _require_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    _require(not (path.is_absolute() or "\\" in name or name[1:2] == ":"), archive, name, "has an absolute name")
    _require(".." not in path.parts, archive, name, "climbs out of its folder")
    _require(bool(path.parts or name.startswith(".")) and "\0" not in name, archive, name, "has no usable name")


def _require(good: bool, archive: Path, name: str, problem: str) -> None:
    if not good:
        raise DataError(f"{archive}: member {name!r} {problem}; nothing is used of it")
