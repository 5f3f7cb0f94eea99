"""The findings about a data set, as text and as JSON."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from transmix.data.dataset import listing
from transmix.data.grey import GreyRange, as_range
from transmix.printable import printable

PROBLEMS = {
    "refused": "training refuses the data set as a whole",
    "damaged-file": "files that are not what transmix pack wrote; restore them, or pack again",
    "unreadable": "cannot be decoded; replace or remove them, or train with --on-bad-image skip",
    "truncated": "the file ends too early; replace or remove them, or train with --on-bad-image skip",
    "empty-file": "zero bytes; replace or remove them, or train with --on-bad-image skip",
    "not-a-file": "a broken link, a pipe, a device, or no permission to read; repair or remove them",
    "huge": "more pixels than Pillow decodes (decompression bomb); make them smaller",
    "leakage": "the same pixels in train and in val: scores come out too good",
    "conflict": "the same pixels with different labels",
    "empty-class": "class folders without an image",
    "class-difference": "classes of the held-out part that train lacks",
    "bad-name": "names of class folders that training refuses; rename them",
    "chosen-on-test": "the best weights are chosen on the test part though another part could do it",
    "left-out": "images that training passes over, for their name or their place",
}
"""What stops or misleads training."""

NOTES = {
    "duplicate": "the same pixels with the same label, in one split",
    "wrong-extension": "content of another kind than the name says; decoded by content",
    "16-bit": "more than 8 bits a channel; grey is rescaled to 8 by the grey range, of colour the upper 8 are taken",
    "grey-range": "grey values beyond the grey range; clipped to it",
    "mixed-depth": "grey of more than 8 bits, which is rescaled, beside images that are not",
    "bands": "TIFF with bands beyond red, green and blue; the first three are taken",
    "cmyk": "printing inks; converted without a colour profile",
    "palette": "colours from a palette; converted",
    "alpha": "transparent pixels; laid over white",
    "rotated": "turned upright as EXIF says",
    "animated": "several frames or pages; the first is taken",
    "large": "so many pixels that Pillow warns; they decode slowly",
    "class-not-held-out": "classes without a held-out image; no score says how well they are recognised",
    "unused-part": "parts that could be held out as well; not used",
    "odd-name": "class names that are easily mistaken, and names of files that are not UTF-8",
    "hidden": "files and folders whose name begins with a dot; skipped",
    "list": "what is odd in a label list",
    "unlisted": "images in no label list; not used",
    "other-file": "files that are no images, and folders that are not used; skipped",
}
"""What is dealt with, but good to know."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: a key of PROBLEMS or NOTES.
        places: the images or folders concerned; several for duplicates.
        detail: more information.
    """

    kind: str
    places: tuple[str, ...]
    detail: str = ""

    @property
    def problem(self) -> bool:
        """Whether this finding stops or misleads training."""
        return self.kind in PROBLEMS


@dataclass(frozen=True)
class Report:
    """The report about a data set.

    Attributes:
        data: name or folder as given.
        images: split -> number of images.
        classes: number of classes.
        findings: problems first.
        grey: the values for black and white in grey images of more than 8 bits; None if there are no such images.
        layout: how the files are arranged, in words; '' if it is not known.
        class_names: names of the classes.
    """

    data: str
    images: dict[str, int]
    classes: int
    findings: tuple[Finding, ...]
    grey: GreyRange | None = None
    layout: str = ""
    class_names: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether there is no finding that stops or misleads training."""
        return not any(finding.problem for finding in self.findings)

    def of(self, kind: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]


def as_text(report: Report, limit: int | None = 3) -> str:
    """Return the report as text: counts first, then up to `limit` findings of each kind (None: all)."""
    sizes = ", ".join(f"{count} images in {split}" for split, count in report.images.items()) or "not opened"
    lines = [f"{printable(report.data)}: {sizes}; {report.classes} classes"]
    refused = "; refused as it is, see below" if report.of("refused") else ""
    lines.append(f"layout: {printable(report.layout) or 'none that is known'}{refused}")
    lines += [f"classes: {listing(map(printable, report.class_names))}"] if report.class_names else []
    if report.grey is not None:
        lines.append(f"grey range {as_range(report.grey)}: becomes black to white in grey images of more than 8 bits")
    for title, kinds in (("problems", PROBLEMS), ("notes", NOTES)):
        rows = [f"{len(found):>9}  {kind:<16}  {what}" for kind, what in kinds.items() if (found := report.of(kind))]
        lines += [f"\n{title}:{'' if rows else ' none'}", *rows]
    for kind in PROBLEMS | NOTES:
        found = report.of(kind)
        lines += [f"\n{kind}"] if found else []
        for finding in found[:limit]:
            detail = f"  ({printable(finding.detail)})" if finding.detail else ""
            lines.append(f"    {' = '.join(map(printable, finding.places))}{detail}")
        if limit is not None and len(found) > limit:
            lines.append(f"    and {len(found) - limit} more; --all lists them")
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values."""
    counts = Counter(finding.kind for finding in report.findings)
    return {
        "data": report.data,
        "images": report.images,
        "layout": report.layout,
        "classes": report.classes,
        "class_names": report.class_names,
        "grey_range": report.grey,
        "sound": report.sound,
        "problems": {kind: counts[kind] for kind in PROBLEMS if counts[kind]},
        "notes": {kind: counts[kind] for kind in NOTES if counts[kind]},
        "findings": [{**asdict(finding), "problem": finding.problem} for finding in report.findings],
    }
