"""Embed figures and pictures in an HTML page."""

import base64
import io
import re

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from transmix.printable import printable
from transmix.visual.palette import ON_A_PAGE, our_style

SERIES = "series"


def series(number: int, title: str) -> str:
    """Return the `gid` of an artist: the page shows its title, and dims artists with other numbers."""
    return f"{SERIES} s{number} {title}"


@our_style()
def inline_svg(figure: Figure, says: str) -> Markup:
    """Return a figure as an SVG element with the page's colours and font.

    Colours become the variables of `ON_A_PAGE`, the background is removed, text stays text. The output is
    deterministic. Ids depend on the content and on `says`, so two figures of a page do not share an id.

    Args:
        figure: Figure drawn in `our_style`.
        says: Alternative text for screen readers.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"transmix: {says}"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    body = text[text.index(">", text.index("<svg")) + 1 :]
    # an attribute that holds one kind of quotes stands within the other
    body = re.sub(rf"""<g id=(["']){SERIES} (s\d+) (.*?)\1>""", rf'<g class="{SERIES} \2"><title>\3</title>', body)
    body = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", body)  # those of marks and of clipping are referred to
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    for colour, name in ON_A_PAGE.items():
        body = re.sub(re.escape(colour), f"var(--{name})", body, flags=re.IGNORECASE)
    body = re.sub(r">\s+<", "><", body).replace("\n", " ")
    body = body if body.isprintable() else printable(body)
    return Markup(f'<svg role="img" viewBox="0 0 {width} {height}" aria-label="{escape(printable(says))}">{body}')


def data_uri(content: bytes, kind: str = "image/png") -> Markup:
    """Return the data URI of an embedded picture, for `src`."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")


def png_uri(picture: np.ndarray) -> Markup:
    """Return the data URI of a picture (H, W, 3) uint8, for `src`."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return data_uri(file.getvalue())
