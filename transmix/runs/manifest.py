"""The manifest of a checkpoint: name, size and sha256 of every other file, trusted in nothing else.

A folder may come from a stranger, so a manifest is read as data that may say anything: names that lead out of the
folder are refused before a file is opened, and so are links, pipes and folders in a file's place. Files that it does
not name are not part of the checkpoint.
"""

import hashlib
import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from transmix.runs.atomic_write import why, write_file
from transmix.runs.error import CheckpointError

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_LARGEST = 1 << 20  # bytes of a manifest


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files that are in a folder."""
    manifest = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            manifest[path.name] = _fingerprint(file)
    write_file(folder / MANIFEST, _text(manifest))


def verify_files(folder: Path) -> list[str]:
    """Check that every file that the manifest names is there with the size and content that were written.

    Returns:
        The names.

    Raises:
        CheckpointError: naming the file, and what is wrong with it.
    """
    manifest = _read(folder)
    for name, expected in manifest.items():
        path = folder / name
        with _open(path) as file:
            try:
                found = _fingerprint(file)
            except OSError as error:
                raise CheckpointError(f"{path} is damaged: {why(error)}") from error
        if found["size"] != expected["size"]:
            raise CheckpointError(f"{path} is damaged: {found['size']} bytes, {expected['size']} were written")
        if found["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: its content is not what was written")
    return list(manifest)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if os.path.islink(folder):
        raise CheckpointError(f"{folder} is a link, not a checkpoint; put the folder itself there")
    with _open(path) as file:
        try:
            content = file.read(_LARGEST + 1)
            manifest = json.loads(content) if len(content) <= _LARGEST else None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: it cannot be read ({error})") from error
    if not isinstance(manifest, dict) or not all(map(_is_entry, manifest.values())):
        raise CheckpointError(f"{path} is damaged: it is not a list of files, sizes and checksums")
    for name in manifest:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise CheckpointError(f"{path} is damaged: it names {name[:80]!r}, which is no file of a checkpoint")
    if content != _text(manifest):  # so that no byte of this file can change unseen
        raise CheckpointError(f"{path} is damaged: its content is not what was written")
    return manifest


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"size", "sha256"}
        and type(entry["size"]) is int
        and isinstance(entry["sha256"], str)
    )


def _open(path: Path) -> io.BufferedReader:
    """Open a plain file; a link may lead out of the folder, and a pipe would never end."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{path} is damaged: it is not a plain file")
        return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is damaged: it is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} is damaged: {why(error)}") from error


def _fingerprint(file: io.BufferedReader) -> dict[str, Any]:
    return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _text(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()
