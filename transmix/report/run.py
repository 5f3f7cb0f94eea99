"""The report of a run: one self-contained HTML file in its folder."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from transmix.report import figures, history, scores, verdict
from transmix.report.format import whole
from transmix.report.page import render, write_page
from transmix.runs.read import RunRecord, read_file, read_run, tried
from transmix.visual.html import data_uri
from transmix.visual.palette import PAGE

LARGEST = 3_000_000
"""Bytes of a report."""

WIDEST, HEAVIEST = 1520, 400_000
"""Pixels and bytes of a picture; a larger one is scaled down."""


class Picture(NamedTuple):
    """A picture embedded in the page."""

    source: str
    width: int
    height: int


def write_report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run, finished or not.

    Args:
        folder: run folder.
        out: output file; default: report.html in the folder.

    Returns:
        The path of the file.

    Raises:
        RunError: there is no run, or the report cannot be written. The report itself lists missing or damaged files.
    """
    path = Path(out) if out is not None else Path(folder) / "report.html"
    write_page(path, report(Path(folder)))
    return path


def report(folder: Path) -> str:
    """Return the report of a run as HTML of at most `LARGEST` bytes.

    Raises:
        RunError: there is no run.
    """
    found = read_run(folder)
    pictures = {name: tried(found.problems, name, lambda draw=draw: draw(found)) for name, draw in PICTURES.items()}
    values = {one.__name__: tried(found.problems, one.__name__, lambda one=one: one(found)) for one in SECTIONS}
    html = render("run.html", pictures=pictures, problems=found.problems, whole=whole, **values)
    if len(html.encode()) > LARGEST:  # by the bounds of each part this does not happen
        found.problems |= dict.fromkeys(PICTURES, "left out: with it, the report would be too large")
        html = render("run.html", pictures=dict.fromkeys(PICTURES), problems=found.problems, whole=whole, **values)
    return html


def picture(content: bytes) -> Picture:
    """Return a picture that is small enough for a page: PNG if it fits, else JPEG, scaled down until it fits.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        pixels = image.convert("RGB")
    pixels.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
    while True:
        for kind, options in (("png", {}), ("jpeg", {"quality": 85})):
            file = io.BytesIO()
            pixels.save(file, kind, **options)
            if file.tell() <= HEAVIEST:
                return Picture(data_uri(file.getvalue(), f"image/{kind}"), *pixels.size)
        pixels = pixels.resize((pixels.width * 3 // 4 or 1, pixels.height * 3 // 4 or 1), Image.Resampling.LANCZOS)


def epoch_by_epoch(found: RunRecord) -> bytes:
    """Draw attention over the same validation images after each of a few epochs, as PNG.

    Raises:
        FileNotFoundError: no epoch has left any.
        AttentionError, CheckpointError: the model's attention was not read, or a file is damaged.
    """
    from transmix.visual.run import examples_figure

    if not any((found.folder / "examples").glob("epoch-*.safetensors")):
        raise FileNotFoundError
    file = io.BytesIO()
    examples_figure(found.folder).savefig(file, format="png", dpi=WIDEST / PAGE)
    return file.getvalue()


PICTURES: dict[str, Callable[[RunRecord], Picture]] = {
    "first_boxes.png": lambda found: picture(read_file(found.folder / "first_boxes.png")),
    "last_boxes.png": lambda found: picture(read_file(found.folder / "last_boxes.png")),
    "examples": lambda found: picture(epoch_by_epoch(found)),
}
"""Name of what is drawn -> picture."""
HISTORY = (history.overview, history.label_shift, history.cost, history.incidents, history.recipe, history.environment)
SCORES = (verdict.verdict, scores.result, scores.classes, scores.evaluations)
SECTIONS = (*HISTORY, *SCORES, figures.curves, figures.calibration)
"""What makes the values of a part of the template of the run's files; the part has the function's name."""
