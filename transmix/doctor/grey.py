"""Greyscale of more than 8 bits in a data set: which range it has, and which images leave it."""

from collections.abc import Callable
from typing import Any

from transmix.data.dataset import DataError, Split
from transmix.data.grey import GreyRange, as_range
from transmix.data.grey_range import check_levels, deep_values_of, leaving_notes, range_of
from transmix.doctor.report import Finding


def find_grey(
    data: str, splits: dict[str, Split], given: GreyRange | None, place: Callable[[Any, int, str], str]
) -> tuple[GreyRange | None, list[Finding]]:
    """Find the grey range of the training images, and what is to be said of it.

    Args:
        data: name of the data set.
        splits: by name; the range is that of "train".
        given: the range to look at instead.
        place: names an image: (images, position, split) -> its place.
    """
    if "train" not in splits:
        return given, []
    values = {name: deep_values_of(split) for name, split in splits.items()}
    findings = []
    try:
        grey = given or range_of(values["train"].values(), data)
        if given is not None:
            check_levels(values["train"].values(), given, data)
        for name, split in splits.items():
            if name != "train" and grey is None:
                leaving_notes(split, grey, data)
    except DataError as error:
        return given, [Finding("refused", (data,), str(error))]
    for name, split in splits.items():
        greys = {index: one for index, one in values[name].items() if not one.colour}
        if 0 < len(greys) < len(split):
            findings.append(Finding("mixed-depth", (name,), f"{len(greys)} of {len(split)} images"))
        findings += [
            Finding("grey-range", (place(split.images, index, name),), as_range((one.low, one.high)))
            for index, one in greys.items()
            if grey is not None and not (grey[0] <= one.low and one.high <= grey[1])
        ]
    return grey, findings
