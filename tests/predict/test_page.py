"""The page of predictions: the least certain first, the worst mistakes, nothing from elsewhere."""

import re

import numpy as np
import pytest
import torch

from transmix.cli import main
from transmix.predict.page import BROKEN, MISTAKES, Gallery
from transmix.predict.predictions import Prediction

CPU = ["--workers", "0", "--threads", "1", "--device", "cpu"]


def made(number, confidence, label="cat", error=None):
    shares = np.array([confidence, 1 - confidence], dtype=np.float32)
    return Prediction(f"{number}.png", label, ("cat", "dog"), shares, None, torch.zeros(3, 4, 4), error)


def test_a_gallery_keeps_what_sorting_all_would_put_first():
    rng = np.random.default_rng(0)
    ones = [made(n, share, "cat" if n % 3 else "dog") for n, share in enumerate(rng.integers(50, 99, 400) / 100)]
    gallery = Gallery(30)
    for one in ones:
        gallery.add(one)
    by_confidence = sorted(ones, key=lambda one: one.probabilities[0])
    wrong = sorted((one for one in ones if one.label == "dog"), key=lambda one: -one.probabilities[0])
    assert [one.image for one in gallery.uncertain] == [one.image for one in by_confidence[:30]]
    assert [one.image for one in gallery.mistakes] == [one.image for one in wrong[:MISTAKES]]
    assert (gallery.images, gallery.labelled, gallery.right) == (400, 400, 400 - len(wrong))
    for number in range(BROKEN + 5):
        gallery.add(made(number, 0.5, error="broken"))
    assert (gallery.errors, len(gallery.broken), gallery.labelled) == (BROKEN + 5, BROKEN, 400)


@pytest.fixture(scope="module")
def page(run, images, tmp_path_factory):
    """A page of the validation images under the other class's name, and of a file that is no image."""
    folder = tmp_path_factory.mktemp("page")
    for name, other in (("dark", "light"), ("light", "dark")):
        (folder / other).mkdir()
        for path in (images / "val" / name).iterdir():
            (folder / other / f"{name}{path.name}").write_bytes(path.read_bytes())
    (folder / "dark" / "<script>alert(1).png").write_text("no image")
    words = ["predict", run, folder, "--out", folder / "p.csv", "--page", folder / "p.html", "--temperature", "2"]
    assert main([*map(str, words), *CPU]) == 1
    return folder / "p.html"


def test_the_page_shows_the_least_certain_first_and_the_mistakes_with_attention(page):
    html = page.read_text(encoding="utf-8")
    wrong, uncertain = re.search(r'id="wrong"(.*)id="broken".*?id="uncertain"(.*)', html, re.DOTALL).groups()
    shares = [float(share) for share in re.findall(r"</bdi> ([\d.]+)\xa0%</strong>", uncertain)]
    assert len(shares) == 8
    assert shares == sorted(shares)
    worst = [float(share) for share in re.findall(r"</bdi> ([\d.]+)\xa0%</strong>", wrong)]
    assert worst == sorted(worst, reverse=True)
    assert len(worst) >= 1
    assert wrong.count("Where the model looked in ") == len(worst)
    assert wrong.count("label: <bdi>") == len(worst)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1).png" in html
    assert "2</bdi>" in html  # the temperature
    assert "names of the images&#39; folders" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)


def test_a_model_whose_attention_cannot_be_read_gets_a_page_that_says_so(images, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_convnext", num_classes=2).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "labels.csv").write_text(f"image,label\n{images}/val/dark/000.png,0\n{images}/val/dark/001.png,1\n")
    words = [tmp_path / "w.safetensors", images / "val" / "dark", "--model", "test_convnext"]
    words += ["--labels", tmp_path / "labels.csv", "--page", tmp_path / "p.html"]
    assert main(["predict", *map(str, words), *CPU]) == 0
    html = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "Where the model looked cannot be read: " in html
    assert "Where the model looked in" not in html


def test_in_a_browser_it_reads_well_and_asks_nobody(page, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    for scheme, width in (("light", 1200), ("dark", 390)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        context.set_default_timeout(180_000)
        view, asked, problems = context.new_page(), [], []
        view.on("request", lambda request, asked=asked: asked.append(request.url))
        view.on("console", lambda message, problems=problems: problems.append(message.text))
        view.goto(page.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        assert view.evaluate("document.documentElement.scrollWidth") == width
        assert problems == []
        found = axe.run(view).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        context.close()
