"""A figure in a page: in its colours, without ids that collide, the same every time, whatever its texts hold."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from transmix.visual import palette
from transmix.visual.attention import attention_figure
from transmix.visual.curves import LOOKS, Curve, curve_figure, swatch
from transmix.visual.html import data_uri, inline_svg, png_uri, series
from transmix.visual.intervals import Estimate, differences_figure
from transmix.visual.palette import LINES, ON_A_PAGE
from transmix.visual.reliability import Reliability, reliability_figure

CURVES = {"training": Curve([1, 2, 3], [0.5, float("nan"), 0.25]), "validation": Curve([1, 3], [0.4, float("inf")])}


def ids(text):
    return set(re.findall(r' id="([^"]*)"', text))


def figures():
    counts = np.array([3, 0, 5])
    return {
        "curves": curve_figure(CURVES),
        "swatch": swatch(LOOKS["validation"]),
        "reliability": reliability_figure(Reliability(counts, np.array([0.1, np.nan, 0.9]), counts / 9, 0.1)),
        "differences": differences_figure({"b − a": Estimate(0.5, 0.1, 0.9, [0.4, 0.6]), "c − a": Estimate(0.1)}),
    }


@pytest.mark.parametrize("name", figures())
def test_every_colour_is_one_of_the_page(name):
    svg = inline_svg(figures()[name], "what it is")
    assert re.findall(r"#[0-9a-fA-F]{6}\b(?=[;\"])", svg) == []
    assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(ON_A_PAGE.values())
    assert "var(--" in svg
    assert "font-family" not in svg
    assert "<style" not in svg
    assert svg == inline_svg(figures()[name], "what it is")
    assert 'role="img"' in svg
    assert 'aria-label="what it is"' in svg


def test_a_colour_that_no_page_knows_would_be_seen(monkeypatch):
    monkeypatch.delitem(ON_A_PAGE, palette.MODEL)
    with pytest.raises(AssertionError):
        test_every_colour_is_one_of_the_page("reliability")


def test_ids_of_two_figures_never_meet_and_every_reference_has_its_own():
    first, second = (inline_svg(curve_figure(CURVES), says) for says in ("loss", "top-1"))
    assert ids(first)
    assert not ids(first) & ids(second)
    for svg in (first, second):
        assert set(re.findall(r"(?:url\(#|href=\"#)(\w+)", svg)) == ids(svg)


def test_hostile_names_are_text():
    hostile = '</svg><script>alert(1)</script>"\u202e'
    looks = {"one": LOOKS["training"] | {"gid": series(3, hostile)}}
    text = inline_svg(curve_figure({"one": Curve([1, 2], [1, 2])}, looks=looks), hostile)
    text += inline_svg(differences_figure({hostile: Estimate(1.0)}), "x")
    assert "<script" not in text
    assert "\u202e" not in text
    titles = []

    class Titles(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if dict(attributes).get("class"):
                titles.append(dict(attributes)["class"])

    Titles().feed(text)
    assert titles == ["series s3"]


def test_values_that_are_no_numbers_leave_gaps():
    svg = inline_svg(curve_figure(CURVES), "loss")
    assert "nan" not in svg
    assert "inf" not in svg


def test_the_outline_of_a_box_is_white_on_every_page():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 3:6] = True
    figure = attention_figure(np.zeros((3, 8, 8), dtype=np.uint8), np.arange(4.0), (2, 2), mask)
    svg = inline_svg(figure, "attention").lower()
    assert "stroke: #fefefe" in svg
    assert "stroke: #000000" in svg
    assert svg.count("<image") == 2  # the picture and its scale


def test_groups_have_colours_of_their_own():
    assert len({ON_A_PAGE[colour] for colour in LINES}) == len(LINES)


def test_a_picture_is_part_of_the_page():
    assert data_uri(b"abc") == "data:image/png;base64,YWJj"
    assert png_uri(np.zeros((2, 2, 3), dtype=np.uint8)).startswith("data:image/png;base64,iVBOR")
