"""The style of all figures: colour-blind safe colours and sizes for paper, independent of the user's style."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

OWN, PARTNER = "#0072B2", "#E69F00"  # of Okabe and Ito's palette: blue, orange
MODEL, AVERAGE, TRAINING = OWN, "#D55E00", "#999999"  # blue, vermilion, grey; line styles differ too
INK, PALE, FAINT = "#222222", "#666666", "#DDDDDD"

OUTLINE = "#FEFEFE"  # white on every page, where #FFFFFF becomes the colour of the page

LINES = (OWN, AVERAGE, "#00795A", "#A0418F", "#6F5B00", "#C02942", "#4A5FC1", "#5A646D")
"""Colours of groups, in order; after the last the first comes again."""

ON_A_PAGE = {
    OWN: "own",
    PARTNER: "partner",
    AVERAGE: "average",
    TRAINING: "training",
    INK: "ink",
    PALE: "pale",
    FAINT: "line",
    "#FFFFFF": "page",
} | {colour: f"g{number}" for number, colour in enumerate(LINES) if number > 1}
"""Colour -> the variable of a page's style sheet that takes its place, which differs in light and dark mode."""

PAGE, COLUMN = 6.9, 3.3  # inches: the text of a paper of two columns, and one column
ON_PAGE = 2.4  # inches of a panel of an HTML page, which enlarges it to about 4 or 5, so that its text is of usual size
TEXT, SMALL = 7.5, 6.5  # points
MARGIN, GAP = 0.08, 0.10  # inches

VALUES: tuple[tuple[Any, str], ...] = (
    (TEXT, "font.size axes.labelsize axes.titlesize"),
    (SMALL, "xtick.labelsize ytick.labelsize legend.fontsize"),
    (INK, "text.color axes.labelcolor xtick.labelcolor ytick.labelcolor"),
    (PALE, "axes.edgecolor xtick.color ytick.color"),
    (FAINT, "grid.color"),
    (0.5, "grid.linewidth"),
    (0.6, "axes.linewidth xtick.major.width ytick.major.width"),
    (1.2, "lines.linewidth"),
    (2.5, "xtick.major.size ytick.major.size"),
    ("bold", "axes.titleweight"),
    ("left", "axes.titlelocation"),
    (False, "axes.spines.top axes.spines.right legend.frameon"),
    (True, "axes.grid axes.axisbelow"),
    ("none", "svg.fonttype"),  # text stays text: it can be searched and edited
    ("transmix", "svg.hashsalt"),  # the same figure gives the same file
)
STYLE: Any = {name: value for value, names in VALUES for name in names.split()}


@contextmanager
def our_style() -> Iterator[None]:
    """Use matplotlib's defaults with `STYLE`, as context or decorator; the user's settings are restored afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
