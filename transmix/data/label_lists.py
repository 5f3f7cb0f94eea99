"""Label lists: CSV, TSV, text and JSON-lines files with an image and its label a line."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transmix.data.dataset import DataError, listing, printable
from transmix.data.formats import SUFFIXES, has_suffix
from transmix.data.parts import Choice, split_of

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl")
"""Files that may be lists."""

IMAGE_COLUMNS = (
    "image", "img", "file", "filename", "filepath", "path", "imagepath", "imgpath", "imagefile", "imagename",
    "imagefilename", "imageid", "imgid", "images", "files", "filenames", "filepaths", "paths", "photo", "name", "id",
)  # fmt: skip
"""What the column of the images may be called, the first that is there; in any case, without spaces and underscores."""

SOLUTION = "predictionstring"
"""The label column of ImageNet's lists at Kaggle: the class, then a box, and more of the same."""

LABEL_COLUMNS = (
    "label", "labels", "class", "classname", "category", "categoryname", "target", "breed", "species", "variety",
    "diagnosis", "dx", "classes", "classid", "labelid", "categoryid", SOLUTION,
)  # fmt: skip
"""What the column of the labels may be called."""

SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase", "dataset")
"""What a column that says train, val or test may be called; it must hold nothing else."""

OF_IMAGENET = re.compile(r"validation_(ground_truth|synset_labels)\.txt$", re.IGNORECASE)
"""Lists of ImageNet's validation images: a class a line, in the order of the numbers in the images' names."""

CUB_LABELS, CUB_SPLIT, CUB_CLASSES = "image_class_labels.txt", "train_test_split.txt", "classes.txt"
"""CUB-200's files beside images.txt: number of an image -> of its class; -> 1 if it is for training; class -> name."""

_SUFFIXES = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_IMAGE_FIRST = re.compile(rf"(.+?(?:{_SUFFIXES}))(?:[\s,;|]+(.*))?", re.IGNORECASE)
_LIST_WORDS = {"label", "labels", "list", "index", "annotation", "annotations", "metadata", "images", "data"}
_NUMBERS = re.compile(r"[-+.\d]+(\s+[-+.\d]+)+")


@dataclass(frozen=True, eq=False)
class LabelList:
    """A label list as it is written.

    Attributes:
        path: Its file.
        names: N names of images, as written.
        labels: N labels; '' where there is none.
        lines: N line numbers, from 1.
        splits: N words for a split; None: the list does not say.
        columns: Names of the image column and of the label column; None: the file has no names of columns.
    """

    path: Path
    names: Sequence[str]
    labels: Sequence[str]
    lines: Sequence[int]
    splits: Sequence[str] | None = None
    columns: tuple[str, str] | None = None


@dataclass(frozen=True)
class _Rows:
    """The cells of a file, with the numbers of their lines."""

    header: list[str] | None
    cells: list[list[str]]
    lines: list[int] = field(default_factory=list)


def may_be_list(path: Path, choice: Choice) -> bool:
    """Whether a file is a label list by its name and its first lines."""
    if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
        return False
    if path.name in (CUB_LABELS, CUB_SPLIT) and _of_cub(path.with_name("images.txt")):
        return False  # read with images.txt
    if path.suffix.lower() == ".txt" and not (split_of(path.stem) or _LIST_WORDS & set(_words(path.stem))):
        return False
    try:
        return read_list(path, choice, first_only=True) is not None
    except DataError:
        return True  # it is read again, and then said


def read_list(path: Path, choice: Choice, first_only: bool = False) -> LabelList | None:
    """Read a label list; None if the file is something else.

    A file is a list if columns of images and labels are found by name or asked for, or if its lines begin with the name
    of an image file, or if its lines are `class/name`. Where there is no label column, the label is the column of 0 and
    1 that has the 1, or the name of the image's folder.

    Args:
        path: The file.
        choice: Names of the columns; None: found by name.
        first_only: Look at the first row alone.

    Raises:
        DataError: The file cannot be read, or a line of it cannot.
    """
    if OF_IMAGENET.search(path.name):
        return _of_imagenet(path)
    if _of_cub(path):
        return _read_cub(path)
    text = _text(path, first_only)
    rows = _json_rows(path, text) if path.suffix.lower() == ".jsonl" else _rows(path, text)
    if rows is None or not rows.cells:
        return None
    if rows.header is None:
        return _without_header(path, rows)
    found = columns_of(rows.header, choice)
    if found[0] is not None and found[1] is None:  # of columns of attributes, the first lines can look like classes
        return read_list(path, choice) if first_only else _one_hot(path, rows, rows.header, found[0], choice)
    if None in found:
        return None
    image, label = (rows.header.index(str(name)) for name in found)
    if short := next((line for line, cells in zip(rows.lines, rows.cells, strict=True) if len(cells) <= image), None):
        raise DataError(f"{path} line {short}: too few columns; write {len(rows.header)} in each line")
    names = [cells[image].strip() for cells in rows.cells]
    labels = [cells[label].strip() if len(cells) > label else "" for cells in rows.cells]
    if _plain(rows.header[label]) == SOLUTION:
        labels = [one.partition(" ")[0] for one in labels]
    columns = (rows.header[image], rows.header[label])
    return LabelList(path, names, labels, rows.lines, _splits(rows, {image, label}), columns)


def columns_of(header: Sequence[str], choice: Choice) -> tuple[str | None, str | None]:
    """Return the image column and the label column among names of columns; None for one that is not found."""

    def column(asked: str | None, usual: Sequence[str], taken: str | None = None) -> str | None:
        if asked is not None:
            return asked if asked in header else None
        plain = {_plain(name): name for name in reversed(header) if name != taken}
        return next((plain[name] for name in usual if name in plain), None)

    label = column(choice.label_column, LABEL_COLUMNS, choice.image_column)
    return column(choice.image_column, IMAGE_COLUMNS, label), label


def _one_hot(path: Path, rows: _Rows, header: list[str], image: str, choice: Choice) -> LabelList | None:
    """Read a list with a column of 0 and 1 for each class (ISIC); None if the other columns are something else.

    Where more than a tenth of the lines have no 1, or several, the columns are attributes and not classes.

    Raises:
        DataError: A line is too short, has no 1, or several.
    """
    names = [name for name in header if name != image and _plain(name) not in SPLIT_COLUMNS]
    names = names if choice.label_column is None else choice.label_column.split(",")
    at = [header.index(name) for name in names if header.count(name) == 1 and "," not in name]
    if len(names) < 2 or len(at) < len(names):
        return None
    if short := next((line for line, cells in zip(rows.lines, rows.cells, strict=True) if len(cells) <= max(at)), None):
        raise DataError(f"{path} line {short}: too few columns; write {len(header)} in each line")
    values = [[cells[column].strip() for column in at] for cells in rows.cells]
    if not {value for row in values for value in row} <= {"0", "1", "0.0", "1.0"}:
        return None
    labels = [[name for name, value in zip(names, row, strict=True) if value[0] == "1"] for row in values]
    wrong = [(line, ones) for line, ones in zip(rows.lines, labels, strict=True) if len(ones) != 1]
    if 10 * len(wrong) > len(labels):
        return None
    for line, ones in wrong:
        what = f"{listing(map(printable, ones), 3)} are all 1" if ones else "no column is 1"
        raise DataError(f"{path} line {line}: {what}; images have one class each: take the line out")
    position = header.index(image)
    images = [cells[position].strip() for cells in rows.cells]
    splits = _splits(rows, {position, *at})
    return LabelList(path, images, [one for (one,) in labels], rows.lines, splits, (image, ",".join(names)))


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def header_of(path: Path) -> list[str] | None:
    """Return the names of a file's columns; None if it has none or cannot be read."""
    try:
        text = _text(path, first_only=True)
        rows = _json_rows(path, text) if path.suffix.lower() == ".jsonl" else _rows(path, text)
    except DataError:
        return None
    return None if rows is None else rows.header


def _text(path: Path, first_only: bool) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return "".join(file.readline() for _ in range(3)) if first_only else file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read the list ({error.strerror}); make it readable") from error


def _rows(path: Path, text: str) -> _Rows | None:
    """Split a text into cells; None for a text file that is no list."""
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    marks = {mark: first.count(mark) for mark in "\t,;|"}
    mark = max(marks, key=lambda one: marks[one])
    if path.suffix.lower() == ".txt" and not marks["\t"] and not _is_header(first.split(mark)):
        return _text_rows(text)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
        found = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}; repair the line") from error
    header = None
    if found and not any(has_suffix(cell.strip()) for cell in found[0][1]):
        header = [cell.strip() for cell in found.pop(0)[1]]
    return _Rows(header, [cells for _, cells in found], [line for line, _ in found])


def _is_header(cells: list[str]) -> bool:
    return len(cells) > 1 and None not in columns_of([cell.strip() for cell in cells], Choice())


def _text_rows(text: str) -> _Rows | None:
    """Split lines `image label` and `class/name` into cells; None if a line is neither."""
    found = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        if match := _IMAGE_FIRST.fullmatch(line):
            found.append((number, [match[1], *([match[2]] if match[2] else [])]))
        elif len(pieces := line.split()) == 2 or (len(pieces) == 1 and "/" in line and "://" not in line):
            found.append((number, pieces))
        else:
            return None
    header = found.pop(0)[1] if found and _is_header(found[0][1]) else None
    return _Rows(header, [cells for _, cells in found], [line for line, _ in found])


def _json_rows(path: Path, text: str) -> _Rows | None:
    """Read a JSON object a line; texts and numbers become cells."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            value = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise DataError(f"{path} line {number}: not JSON ({error}); write one object a line") from error
        if isinstance(value, dict):
            found.append((number, value))
        elif value is not None:
            return None
    header = list(dict.fromkeys(name for _, value in found for name in value))
    cell = lambda value: "" if value is None else value if isinstance(value, str) else json.dumps(value)  # noqa: E731
    cells = [[cell(value.get(name)) for name in header] for _, value in found]
    return _Rows(header, cells, [line for line, _ in found])


def _without_header(path: Path, rows: _Rows) -> LabelList | None:
    """Read rows without names of columns: the image is first, the label second; without one, it is the folder."""
    widths = {len(cells) for cells in rows.cells}
    if path.name.lower() == "val_annotations.txt":  # of Tiny-ImageNet: a box follows
        widths = {min(width, 2) for width in widths}
    if not widths <= {1, 2} or any(not cells[0].strip() for cells in rows.cells):
        return None
    if len(widths) == 2:
        line = next(line for line, cells in zip(rows.lines, rows.cells, strict=True) if len(cells) == 1)
        raise DataError(f"{path} line {line}: no label beside the image; write one, or take the line out")
    names = [cells[0].strip().replace("\\", "/") for cells in rows.cells]
    if widths == {1}:
        if not all("/" in name for name in names):
            return None
        labels = [name.split("/")[-2] for name in names]
    else:
        labels = [cells[1].strip() for cells in rows.cells]
        if several := [line for line, label in zip(rows.lines, labels, strict=True) if _NUMBERS.fullmatch(label)]:
            remedy = "write one, or name the columns in a first line"
            raise DataError(f"{path} line {several[0]}: several numbers after the image; {remedy}")
    return LabelList(path, names, labels, rows.lines)


def _splits(rows: _Rows, taken: set[int]) -> list[str] | None:
    """Return the words of a column that says train, val or test in every line; None if there is none."""
    for index, name in enumerate(rows.header or ()):
        if index not in taken and _plain(name) in SPLIT_COLUMNS:
            words = [cells[index].strip().lower() if len(cells) > index else "" for cells in rows.cells]
            if all(map(split_of, set(words))):
                return words
    return None


def _of_imagenet(path: Path) -> LabelList:
    """Read a list of ImageNet's validation images: a synset a line, or its number in the development kit.

    The numbers follow the order of meta.mat, not that of the sorted names of the class folders.

    Raises:
        DataError: The lines are numbers, and meta.mat is not beside the list.
    """
    labels = _text(path, first_only=False).split()
    if all(label.isdecimal() for label in labels):
        synsets = _synsets(path)
        if unknown := [label for label in labels if int(label) not in synsets]:
            raise DataError(f"{path}: {listing(unknown, 3)} is no number of a class in meta.mat; fetch both again")
        labels = [synsets[int(label)] for label in labels]
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(labels) + 1)]
    return LabelList(path, names, labels, range(1, len(labels) + 1))


def _synsets(path: Path) -> dict[int, str]:
    """Read number -> synset from the meta.mat beside a list."""
    from scipy.io import loadmat  # type: ignore[import-untyped]

    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise DataError(
            f"{path}: its numbers follow the order of the development kit, not that of the class folders; put "
            f"data/meta.mat of ILSVRC2012_devkit_t12 beside it, or take LOC_val_solution.csv instead"
        )
    try:
        rows = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except Exception as error:  # scipy lets through whatever damaged files make of its readers
        raise DataError(f"{meta}: cannot read the synsets ({printable(str(error))}); fetch it again") from error


def _of_cub(path: Path) -> bool:
    """Whether a file is CUB-200's list of images."""
    return path.name == "images.txt" and path.is_file() and path.with_name(CUB_LABELS).is_file()


def _read_cub(path: Path) -> LabelList:
    """Read CUB-200's list of images with the files beside it, all of lines `number value`.

    Raises:
        DataError: A line is something else, or an image has no class or no split.
    """
    images, label_of = _numbered(path), _numbered(path.with_name(CUB_LABELS))
    there = [path.with_name(name).is_file() for name in (CUB_SPLIT, CUB_CLASSES)]
    trained = _numbered(path.with_name(CUB_SPLIT)) if there[0] else None
    names = _numbered(path.with_name(CUB_CLASSES)) if there[1] else {number: number for number in label_of.values()}
    checked = [(images, label_of, CUB_LABELS), (label_of.values(), names, CUB_CLASSES)]
    for numbers, known, file in [*checked, *([] if trained is None else [(images, trained, CUB_SPLIT)])]:
        if missing := list(dict.fromkeys(number for number in numbers if number not in known)):
            raise DataError(f"{path.with_name(file)}: no line begins with {listing(missing, 3)}; fetch it again")
    labels = [names[label_of[number]] for number in images]
    splits = None if trained is None else ["train" if trained[number] == "1" else "test" for number in images]
    return LabelList(path, list(images.values()), labels, range(1, len(images) + 1), splits)


def _numbered(path: Path) -> dict[str, str]:
    """Read lines `number value`."""
    lines = [line.split(maxsplit=1) for line in _text(path, first_only=False).splitlines() if line.strip()]
    if wrong := next((line for line in lines if len(line) < 2 or not line[0].isdecimal()), None):
        raise DataError(f"{path}: {printable(' '.join(wrong))} is not a number and what it stands for; fetch it again")
    return {number: value.strip() for number, value in lines}
