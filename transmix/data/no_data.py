"""Messages for a folder that holds no data set: what was looked for, and the nearest command that would work."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from transmix.data.dataset import listing, printable
from transmix.data.folder import class_folders_of_all, split_folders
from transmix.data.label_lists import ENDINGS
from transmix.data.listed_images import columns_remedy
from transmix.data.parts import USUAL, remedy
from transmix.data.torchvision_sets import OLDER_NAMES
from transmix.data.tree import entries_of, holds_images, subfolders

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def no_folder(given: Path) -> str:
    """Return the message for a path that is no folder."""
    if given.suffix.lower() in ARCHIVES and given.is_file():
        return f"{given}: an archive; unpack it, and give the folder"
    if given.suffix.lower() == ".parquet" and given.is_file():
        return (
            f"{given}: a file; transmix train --data hf:{shlex.quote(str(given))} --val-fraction 0.2 --out RUN reads it"
        )
    if given.is_file():
        return f"{given}: a file; give the folder of a data set, or a label list ({', '.join(ENDINGS)})"
    other = f" (--download FOLDER fetches {given} into FOLDER)" if str(given) in OLDER_NAMES else ", or 'digits'"
    return f"{given}: no such folder; give the folder of a data set{other}"


def no_data(root: Path, layouts: Iterable[str]) -> str:
    """Return the message for a folder in which no layout is recognised."""
    content = listing(sorted(printable(entry.name) for entry in root.iterdir())) or "nothing"
    nearest = _nearest(root)
    return f"{root}: no data set; looked for {', '.join(layouts)}; found {content}" + (
        f"; {nearest}" if nearest else ""
    )


def _nearest(root: Path) -> str:
    """Return what would make a data set of a folder; '' if nothing in it looks like images."""
    inside = subfolders(root)
    if other := next(
        (name for name in inside if split_folders(root / name) or class_folders_of_all(root / name)), None
    ):
        return f"{root / other} looks like one: transmix train --data {shlex.quote(str(root / other))} --out RUN"
    tables = [root / entry.name for entry in entries_of(root) if entry.name.lower().endswith((".csv", ".tsv"))]
    flat = next((root / name for name in ("", *inside) if holds_images(root / name)), None)
    if flat is not None and tables:
        return f"{tables[0]}: {columns_remedy(tables[0], USUAL) or f'none of its images is in {root}'}"
    if flat is not None:
        where = os.path.relpath(flat, root)
        place = f"in {printable(where)} " if where != "." else ""
        how = f"put them in {root}/<class>/, or list them in {root}/labels.csv with columns image and label"
        return f"the images {place}have no labels: {how}; then, {remedy(root)}"
    archives = [entry.name for entry in entries_of(root) if entry.name.lower().endswith(ARCHIVES)]
    return f"unpack {listing(map(printable, archives), 3)} first" if archives else ""
