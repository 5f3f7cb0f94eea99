"""Images whose decoded pixels are the same."""

from collections import defaultdict
from typing import NamedTuple

from transmix.doctor.report import Finding


class Picture(NamedTuple):
    """An image that was decoded."""

    pixels: bytes  # a fingerprint
    split: str
    label: str
    place: str


def same_pixels(images: list[Picture]) -> list[Finding]:
    """Find groups of the same pixels: in both splits, with different labels, or else plain duplicates."""
    groups = defaultdict(list)
    for image in images:
        groups[image.pixels].append(image)
    findings = []
    for group in groups.values():
        if len(group) == 1:
            continue
        places, labels = tuple(image.place for image in group), sorted({image.label for image in group})
        leaks = len({image.split for image in group}) > 1
        if leaks:
            findings.append(Finding("leakage", places))
        if len(labels) > 1:
            findings.append(Finding("conflict", places, ", ".join(labels)))
        elif not leaks:
            findings.append(Finding("duplicate", places))
    return findings
