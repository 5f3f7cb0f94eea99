"""Files and manners: SVG text is text, the same figure gives the same file, the user's matplotlib is left alone."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import transmix.visual
from transmix.visual.attention import heads_figure
from transmix.visual.curves import Curve, curves_figure
from transmix.visual.page import Page, save_figure, text_width, wrap
from transmix.visual.pairs import Pair, Share, pairs_figure
from transmix.visual.reliability import reliability, reliability_figure


def figures():
    picture, mask = np.full((12, 20, 3), 0.5), np.zeros((12, 20), dtype=bool)
    mask[2:6, 3:9] = True
    shares = [Share("area", 0.9), Share("attention", 0.5)]
    pair = Pair(picture, picture, picture, mask, np.arange(6.0), ("$cat_1$", "dog & <b>"), shares)
    predictions = torch.eye(4)[:, :3] * 3, torch.tensor([0, 1, 2, 0])
    return {
        "pairs": pairs_figure([pair], (2, 3), mask=True),
        "heads": heads_figure(torch.zeros(1, 3, 12, 20), torch.rand(1, 2, 6), (2, 3), ["a $file_1$.jpg"]),
        "curves": curves_figure({"top-1": {"validation": Curve([1, 20_000], [0.1, 0.5])}}),
        "reliability": reliability_figure(reliability(*predictions), title="runs/$a_b$"),
    }


@pytest.mark.parametrize("kind", figures())
def test_text_in_an_svg_is_text_and_the_file_does_not_change_from_day_to_day(kind, tmp_path):
    save_figure(figures()[kind], tmp_path / "first.svg")
    text = (tmp_path / "first.svg").read_text()
    words = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", text))
    expected = {
        "pairs": ["image A", "mask", "A: $cat_1$", "B: dog &amp; &lt;b&gt;", "90%", "50%", "area"],
        "heads": ["mean", "head 0", "head 1", "a $file_1$.jpg"],
        "curves": ["top-1", "validation", "20k"],
        "reliability": ["runs/$a_b$", "accuracy", "confidence", "4 images"],
    }
    for part in expected[kind]:
        assert part in words
    assert "<dc:date>" not in text
    save_figure(figures()[kind] if kind != "heads" else figures()["pairs"], tmp_path / "second.svg")
    assert ((tmp_path / "second.svg").read_text() == text) == (kind != "heads")


def test_a_style_of_the_user_changes_nothing_and_is_not_changed(tmp_path):
    for kind, figure in figures().items():
        save_figure(figure, tmp_path / f"{kind}.svg")
    loud = {"figure.facecolor": "black", "text.color": "white", "axes.facecolor": "red", "font.size": 30}
    with matplotlib.rc_context({**loud, "savefig.bbox": "tight", "svg.fonttype": "path", "axes.spines.top": True}):
        before = matplotlib.rcParams.copy()
        for kind, figure in figures().items():
            assert to_hex(figure.get_facecolor()) == "#ffffff"
            save_figure(figure, tmp_path / f"{kind}-loud.svg")
            if kind != "heads":  # its attention is random
                assert (tmp_path / f"{kind}-loud.svg").read_text() == (tmp_path / f"{kind}.svg").read_text()
        assert matplotlib.rcParams.copy() == before


def test_nothing_imports_pyplot():
    sources = sorted(Path(transmix.visual.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    assert not any("pyplot" in source.read_text() for source in sources)


def test_only_png_and_svg_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"^a figure is saved as .png or .svg, got '.*x.pdf'$"):
        save_figure(Page(2, 1).figure, tmp_path / "x.pdf")


def test_the_foot_is_broken_between_sentences_then_between_words():
    sentences = ("one two", "three", "four five six seven eight nine ten")
    assert wrap(sentences, 9, 6.5) == ["one two · three · four five six seven eight nine ten"]
    width = text_width("four five six seven", 6.5) / 0.96 + 0.01
    assert wrap(sentences, width, 6.5) == ["one two · three", "four five six seven", "eight nine ten"]
    assert wrap((), 3, 6.5) == []


def test_a_file_is_there_in_full_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "figure.png").write_bytes(b"the older one")

    def die(self, path, **rest):
        Path(path).write_bytes(b"half a pict")
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", die)
    with pytest.raises(OSError, match="no space left"):
        save_figure(figures()["curves"], tmp_path / "figure.png")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the older one"]
