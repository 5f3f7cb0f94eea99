"""Match label lists with the image files of a folder, and sort them into the parts of a data set."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from transmix.data.class_names import class_name, read_class_names
from transmix.data.dataset import DataError, Split, listing, printable
from transmix.data.encoded import image_files
from transmix.data.formats import has_suffix
from transmix.data.label_lists import LabelList, columns_of, header_of, may_be_list, read_list
from transmix.data.parts import WHOLE, Choice, split_of
from transmix.data.tree import entries_of, is_folder, is_hidden, subfolders, walk

LIST_FOLDERS = ("", "meta", "annotations", "labels", "lists", "splits", "ILSVRC2012_devkit_t12/data")
"""Where lists are looked for in a data set's folder, beside the folders of its parts."""

CLS_LOC = "ILSVRC/Data/CLS-LOC"
"""Where the images are in ImageNet's folder from Kaggle; its lists are in that folder."""


@dataclass(frozen=True, eq=False)
class ListedImages:
    """The images of one part, with labels from a list.

    Attributes:
        root: The folder that the paths are relative to.
        source: The list.
        paths: N paths, sorted by class and path.
        labels: N class names.
        notes: Notes for the user, one line each.
        problem: Why the part cannot be used; '' if it can.
    """

    root: Path
    source: LabelList
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    problem: str = ""

    def read(self) -> tuple[tuple[str, ...], Split]:
        """Return the classes, sorted, and the images with labels that are indices into them.

        Raises:
            DataError: The part cannot be used; the message says why.
        """
        if self.problem:
            raise DataError(self.problem)
        classes = tuple(sorted(set(self.labels), key=_in_order(self.labels)))
        position = {name: index for index, name in enumerate(classes)}
        labels = np.array([position[name] for name in self.labels], dtype=np.int64)
        order = sorted(range(len(labels)), key=lambda row: (labels[row], self.paths[row]))
        return classes, Split(image_files(self.root, (self.paths[row] for row in order)), labels[order])


def _in_order(labels: Iterable[str]) -> Callable[[str], tuple[int, str]]:
    """Return the sort key of class names: numbers by value if all are numbers."""
    numbers = all(label.isdecimal() for label in labels)
    return lambda name: (int(name) if numbers else 0, name)


@dataclass(frozen=True, eq=False)
class Lists:
    """What the label lists in a folder say.

    Attributes:
        found: Name of the part -> its images.
        unlisted: Paths of the images that are in no list.
        unused: Lists that are not used.
    """

    found: dict[str, ListedImages]
    unlisted: Sequence[str] = ()
    unused: Sequence[Path] = ()


def find_lists(
    root: Path, parts: Sequence[str], done: Sequence[str], choice: Choice, given: Path | None = None
) -> Lists:
    """Find the label lists in a data set's folder, and match them with its images.

    A list belongs to the part in whose folder it is; else to the part that its name says (train.csv); else it is
    divided by its column of splits, or by the folders of its images; else it is the list of all images.

    Args:
        root: The folder.
        parts: Names of the folders of its parts that have no class folders.
        done: Names of the folders of its parts that have class folders; their lists and images are not looked at.
        choice: Names of the columns.
        given: A list that the user named; other lists that name no part are not read then.

    Raises:
        DataError: A list cannot be read, or two lists are for the same part.
    """
    files = {part: _candidates(root / part, choice) for part in parts}
    above = [root.resolve().parents[2]] if root.as_posix().endswith(CLS_LOC) else []
    beside = [path for one in (*(root / name for name in LIST_FOLDERS), *above) for path in _candidates(one, choice)]
    if given is not None:
        files = {part: [] for part in parts}
        beside = [path for path in beside if split_of(path.stem) and path != given and split_of(given.stem)] + [given]
    for kind in ("train", "val", "test"):
        part = next((one for one in (*done, *parts) if split_of(one) == kind), kind)
        if part not in done:
            files[part] = files.get(part) or [path for path in beside if split_of(path.stem) == kind]
    has_train = any(found for part, found in files.items() if split_of(part) == "train")
    undivided = [path for path in beside if not split_of(path.stem)]
    if has_train or any(split_of(part) == "train" for part in done):
        undivided = []
    if not undivided and not any(files.values()):
        return Lists({}, unused=beside)
    images = ImageIndex(root, done)
    lists = {part: [_read(path, choice) for path in some] for part, some in files.items() if some}
    found = {part: images.match(_only(some, part), part) for part, some in lists.items()}
    whole = [one for path in undivided if images.holds_one_of(one := _read(path, choice)) or path == given]
    if whole:
        found = _divide(images.match(_only(whole, "all images"), ""), parts) | found
    found = _named({part: _without_repeats(one) for part, one in found.items()}, root)
    taken = {path for one in found.values() for path in one.paths}
    sources = {one.source.path for one in found.values()}
    unlisted = [path for path in images.paths if path not in taken]
    return Lists(_with_notes(found), unlisted, [path for path in beside if path not in sources])


def folder_of(given: Path) -> Path:
    """Return the data set's folder of a label list: the one that it is in, or the one above a folder for lists."""
    return given.parent.parent if given.parent.name in LIST_FOLDERS else given.parent


def _candidates(folder: Path, choice: Choice) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [Path(entry.path) for entry in entries_of(folder) if not is_folder(entry) and not is_hidden(entry.name)]
    return [path for path in files if may_be_list(path, choice)]


def _read(path: Path, choice: Choice) -> LabelList:
    if (found := read_list(path, choice)) is None:
        raise DataError(f"{path}: no label list; {columns_remedy(path, choice)}")
    return found


def columns_remedy(path: Path, choice: Choice) -> str:
    """Return what to do about a file without columns of images and labels; '' if it has both."""
    if (header := header_of(path)) is None:
        return "write a line `image,label` first, then the name of an image and its label in each line"
    missing = [what for what, name in zip(("image", "label"), columns_of(header, choice), strict=True) if name is None]
    if not missing:
        return ""
    options = " ".join(f"--{what}-column NAME" for what in missing)
    return f"which of {listing(map(printable, header))} are the {'s and '.join(missing)}s? Name the column: {options}"


def _only(lists: Sequence[LabelList], part: str) -> LabelList:
    if len(lists) > 1:
        names = " and ".join(str(one.path) for one in lists[:2])
        raise DataError(f"{names} both list {part}; move one away, or name one: --data {lists[0].path}")
    return lists[0]


class ImageIndex:
    """All images in a folder, found by the end of their paths.

    Args:
        root: The folder.
        without: Names of folders in it that are left out.

    Attributes:
        root: The folder.
        paths: Paths relative to it, with '/', sorted.
    """

    def __init__(self, root: Path, without: Sequence[str] = ()):
        self.root = root
        here = [entry.path for entry in entries_of(root) if has_suffix(entry.name) and not is_hidden(entry.name)]
        folders = [name for name in subfolders(root) if name not in without]
        below = [entry.path for name in folders for entry, kind in walk(root / name) if kind == "image"]
        start = len(os.path.join(root, ""))
        self.paths = sorted(path[start:].replace(os.sep, "/") for path in here + below)
        self._above = f"{root.resolve()}/", f"{root}/"
        self._ends: dict[tuple[int, bool], dict[str, list[int]]] = {}

    def find(self, name: str) -> list[int]:
        """Return the positions of the images whose path ends in a name, with or without its suffix."""
        depth, whole = name.count("/") + 1, has_suffix(name)
        if (ends := self._ends.get((depth, whole))) is None:
            ends = self._ends[depth, whole] = {}
            for position, path in enumerate(self.paths):
                ends.setdefault(_end(path if whole else os.path.splitext(path)[0], depth), []).append(position)
        return ends.get(name, [])

    def holds_one_of(self, of: LabelList) -> bool:
        """Whether the folder has any of the images of a list."""
        return any(self.find(self.relative(name)) for name in of.names)

    def relative(self, name: str) -> str:
        """Return a name as it is written in a list, with '/' and without the folder itself."""
        name = name.replace("\\", "/").removeprefix("./")
        for above in self._above:
            name = name.removeprefix(above)
        return os.path.normpath(name).replace(os.sep, "/") if "./" in name or "//" in name else name

    def match(self, of: LabelList, part: str) -> ListedImages:
        """Match a list with the images.

        A name that several folders hold is looked for in the folder of the part, beside the list, in the data set's
        folder and in a folder `images`; the first that has any of the list's images is used for all.
        """
        names = [self.relative(name) for name in of.names]
        found = [self.find(name) for name in names]
        folder, problem = str(self.root), ""
        if any(len(hits) > 1 for hits in found):
            found, folder, problem = self._in_one_folder(of, names, found, part)
        if not problem and (missing := [name for name, hits in zip(of.names, found, strict=True) if not hits]):
            what = f"{len(missing)} of the {len(names)} listed images are not in {folder}"
            remedy = "bring them, or take their lines out"
            problem = f"{of.path}: {what}: {listing(map(printable, missing), 3)}; {remedy}"
        if problem:
            return ListedImages(self.root, of, (), (), problem=problem)
        paths = tuple(self.paths[hits[0]] for hits in found)
        return ListedImages(self.root, of, paths, tuple(map(class_name, of.labels)))

    def _in_one_folder(
        self, of: LabelList, names: list[str], found: list[list[int]], part: str
    ) -> tuple[list[list[int]], str, str]:
        """Keep the images in one folder, where several hold images of the same names; or say which folders do.

        Returns:
            For each name the positions of its images; the folder; and the problem, '' if there is none.
        """
        count: Counter[str] = Counter()
        kept: dict[str, list[list[int]]] = {}
        for row, (name, hits) in enumerate(zip(names, found, strict=True)):
            for hit in hits:
                base = _base(self.paths[hit], name)
                count[base] += 1
                kept.setdefault(base, [[] for _ in names])[row].append(hit)
        beside = os.path.relpath(of.path.parent, self.root).replace(os.sep, "/")
        wanted = [part, f"{part}/images", "" if beside == "." else beside, "", "images"]
        base = next((one for one in wanted if one in kept), next(iter(kept)) if len(kept) == 1 else None)
        if base is None:
            folders = listing((one or str(self.root) for one, _ in count.most_common()), 3)
            return found, "", f"{of.path}: the folders {folders} hold images of the same names; write folder/name"
        if twice := next((hits for hits in kept[base] if len(hits) > 1), None):
            both = " and ".join(self.paths[hit] for hit in twice[:2])
            return found, "", f"{of.path}: {both} are the same name without its suffix; write the suffix"
        return kept[base], str(self.root / base), ""


def _end(path: str, depth: int) -> str:
    return "/".join(path.split("/")[-depth:])


def _base(path: str, name: str) -> str:
    """Return the folder below which an image has a name."""
    return "/".join(path.split("/")[: -(name.count("/") + 1)])


def _without_repeats(listed: ListedImages) -> ListedImages:
    """Keep an image that is listed twice once. Two labels for an image, or none, are a problem."""
    label_of: dict[str, str] = {}
    for path, label in zip(listed.paths, listed.labels, strict=True):
        problem, remedy = "", "images have one class each"
        if not label:
            problem, remedy = f"{printable(path)} has no label", "write one, or take the line out"
        elif label_of.setdefault(path, label) != label:
            problem = f"{printable(path)} is {printable(label_of[path])} and {printable(label)}"
        if problem:
            return replace(listed, paths=(), labels=(), problem=f"{listed.source.path}: {problem}; {remedy}")
    repeats = len(listed.paths) - len(label_of)
    notes = (f"{listed.source.path}: {repeats} lines repeat an image, which is read once",) if repeats else ()
    return replace(listed, paths=tuple(label_of), labels=tuple(label_of.values()), notes=notes)


def _divide(listed: ListedImages, parts: Sequence[str]) -> dict[str, ListedImages]:
    """Divide a list of all images by its column of splits, else by the folders of the parts."""
    words = listed.source.splits
    if listed.problem:
        return dict.fromkeys(words or [WHOLE], listed)
    if words is None:
        words = [part if (part := path.partition("/")[0]) in parts else WHOLE for path in listed.paths]
    found = {}
    for word in dict.fromkeys(words):
        rows = [row for row, one in enumerate(words) if one == word]
        paths, labels = (tuple(values[row] for row in rows) for values in (listed.paths, listed.labels))
        found[word] = replace(listed, paths=paths, labels=labels)
    return found


def _with_notes(found: dict[str, ListedImages]) -> dict[str, ListedImages]:
    """Add notes on images that two parts list."""
    parts = [(part, set(one.paths)) for part, one in found.items()]
    notes = [
        f"{both} images are listed in {part} and in {other}: scores come out too good"
        for index, (part, paths) in enumerate(parts)
        for other, others in parts[index + 1 :]
        if (both := len(paths & others))
    ]
    return {part: replace(one, notes=(*one.notes, *notes)) for part, one in found.items()}


def _named(found: dict[str, ListedImages], root: Path) -> dict[str, ListedImages]:
    """Replace labels that are numbers by the names in a file of class names, if there is one.

    Numbers count from 0; from 1 where the training part says so: it has no 0 and has the number of names.
    """
    folders = dict.fromkeys([root, *(one.source.path.parent for one in found.values())])
    names = next(filter(None, map(read_class_names, folders)), None)
    labels = [label for one in found.values() for label in one.labels]
    if names is None or not labels or not all(label.isdecimal() for label in labels):
        return found
    first = next((one for part, one in found.items() if split_of(part) == "train"), next(iter(found.values())))
    numbers = {int(label) for label in first.labels}
    start = int(0 not in numbers and len(names) in numbers)
    named = {}
    for part, one in found.items():
        wrong = next((label for label in one.labels if not 0 <= int(label) - start < len(names)), None)
        if wrong is not None:
            what = f"label {wrong} is not among the {len(names)} class names"
            named[part] = replace(one, problem=f"{one.source.path}: {what}, which count from {start}")
            continue
        notes = (*one.notes, "labels count from 1: label 1 is " + printable(names[0])) if start else one.notes
        named[part] = replace(one, labels=tuple(names[int(label) - start] for label in one.labels), notes=notes)
    return named
