"""Unreadable images that a run may skip: each is listed once, and their number is limited."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from transmix.data.dataset import DataError, UnreadableImageError, printable, too_many
from transmix.data.settings import Data

LIST = "bad_images.txt"
"""The file in the run folder: an image and the reason a line, with a tab between; written by all processes."""

Found = tuple[tuple[str, str], ...]
"""(where, reason) of images that could not be read."""


class BadImages:
    """The unreadable images of a run so far, including those before a resume and in other processes.

    Args:
        limit: Maximum number of different bad images; one more is an error.
        path: List file, created at the first bad image; None: no file.
    """

    def __init__(self, limit: int = 0, path: Path | None = None):
        self.limit, self.path = limit, path
        self.known: dict[str, str] = {}  # where -> reason

    def count(self) -> int:
        """Return the number of bad images so far, including those in the list file from other processes."""
        if self.path is not None and self.path.exists():
            with opened_alone(self.path) as file:
                self.known |= _read(file)
        return len(self.known)

    def add(self, found: Iterable[tuple[str, str]]) -> None:
        """Add bad images; known ones are ignored.

        Raises:
            UnreadableImageError: There is a bad image and none is allowed.
            DataError: There are more than the limit, or the list cannot be written.
        """
        reasons = dict(found)
        new = {printable(where): printable(reason) for where, reason in reasons.items()}
        if new.keys() <= self.known.keys():
            return
        if self.limit == 0:
            raise UnreadableImageError(*next(iter(reasons.items())))
        if self.path is not None:
            with opened_alone(self.path) as file:
                self.known |= _read(file)
                file.writelines(f"{where}\t{reason}\n" for where, reason in new.items() if where not in self.known)
        self.join([new])

    def join(self, others: Iterable[dict[str, str]]) -> None:
        """Add the bad images of other processes that do not share a list file.

        Raises:
            DataError: Together there are more than the limit.
        """
        for other in others:
            self.known |= other
        if len(self.known) > self.limit:
            raise too_many(self.limit, sorted(self.known))


def allowed_bad(settings: Data) -> int:
    """Return the maximum number of bad images of a run."""
    return settings.max_bad_images if settings.on_bad_image == "skip" else 0


def _read(file: TextIO) -> dict[str, str]:
    return {where: reason for where, _, reason in (line.rstrip("\n").partition("\t") for line in file)}


@contextmanager
def opened_alone(path: Path) -> Iterator[TextIO]:
    """Open a text file for reading and appending, locked against other processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            except ImportError:  # not on Windows
                pass
            file.seek(0)
            yield file
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
