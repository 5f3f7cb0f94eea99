"""A look at a page in a browser, a page taken apart without one, and the folder of a run that nobody had to train."""

import csv
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transmix.recipes import dump_recipe


@pytest.fixture(scope="session")
def visit(browser):
    """Open a page, (path or address, scheme, width), and note errors and requests: `with visit(...) as seen`."""

    @contextmanager
    def visit(address, scheme="light", width=1200):
        address = address.resolve().as_uri() if isinstance(address, Path) else address
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        context.set_default_timeout(180_000)
        page = context.new_page()
        seen = Seen(page)
        page.on("console", lambda line: seen.errors.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.goto(address)
        seen.requests = [url for url in seen.requests if url.split("#")[0] != address and not url.startswith("data:")]
        yield seen
        context.close()

    return visit


@dataclass
class Seen:
    """What a browser noticed of a page: errors, and requests other than for the page and what is in it."""

    page: object
    errors: list = field(default_factory=list)
    requests: list = field(default_factory=list)

    def too_wide(self):
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def open_everything(self):
        self.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")

    def violations(self):
        """What axe-core finds that is serious or critical."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
        found = axe.run(self.page).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


class Parsed(HTMLParser):
    """A page taken apart: its text, its tables by caption, its elements; raises where tags do not match."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})
    INLINE = frozenset({"bdi", "code", "strong", "a"})
    DRAWN = frozenset({"path", "rect", "use"})

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.words, self.tables, self.rows = [], [], [], {}, None
        self.style = ""
        self.feed(html)
        self.close()
        assert self.open == [], self.open
        self.text = " ".join("".join(self.words).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.INLINE:
            self.words.append(" ")
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        assert tag in self.VOID | self.DRAWN, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = [[cell.replace("\xa0", " ") for cell in row] for row in self.rows]

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
            return
        self.words.append(data)
        if "caption" in self.open:
            self.caption += data
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="session")
def parsed():
    """Take a page apart."""
    return Parsed


def score_row(epoch, epochs, shift=True):
    done = epoch / epochs
    row = {
        "epoch": epoch,
        "loss": 2.3 - 1.5 * done,
        "mixed_accuracy": 0.1 + 0.6 * done,
        "images_per_second": 1000.0 + epoch,
        "val_loss": 2.2 - 1.7 * done,
        "top1": 0.1 + 0.7 * done,
        "top5": 0.5 + 0.4 * done,
        "calibration_error": 0.2 - 0.1 * done,
        "ema_val_loss": 2.25 - 1.7 * done,
        "ema_top1": 0.12 + 0.7 * done,
        "ema_top5": 0.52 + 0.4 * done,
        "ema_calibration_error": 0.21 - 0.1 * done,
    }
    return row | ({"label_shift": 0.05 + 0.1 * done, "empty_boxes": 0.1 * done} if shift else {})


@pytest.fixture
def run_folder(tmp_path, small_recipe):
    """Write the folder of a finished run as training leaves it: classes, epochs, changes of the recipe."""

    def write(classes=("cat", "dog", "hen"), epochs=4, steps=10, name="my run", **changes):
        folder = tmp_path / name
        folder.mkdir()
        recipe = small_recipe("digits", epochs=epochs, seed=7, **changes)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        (folder / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")
        environment = {"command": "transmix train --lr 1", "python": "3.11.7", "packages": {"torch": "2.15.0"}}
        (folder / "environment.json").write_text(json.dumps(environment))
        rows = []
        for epoch in range(1, epochs + 1):
            scores = score_row(epoch, epochs)
            for half in (steps // 2, steps):
                train = {"epoch": epoch, "lr": 1e-3 / epoch, "loss": scores["loss"], "label_shift": 0.1}
                rows.append({"kind": "train", "step": (epoch - 1) * steps + half, **train})
            rows.append({"kind": "epoch", "step": epoch * steps, **scores})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rng = np.random.default_rng(0)
        counts = rng.integers(0, 9, (len(classes), len(classes))) if len(classes) <= 1000 else None
        if counts is not None:
            counts[np.diag_indices(len(classes))] += 20
            with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["true \\ predicted", *classes]])
                csv.writer(file).writerows([[one, *row] for one, row in zip(classes, counts.tolist(), strict=True)])
        for picture in ("first_boxes.png", "last_boxes.png"):
            Image.fromarray(rng.integers(0, 255, (60, 50, 3), dtype=np.uint8)).save(folder / picture)
        bins = {"hits": [0, 3, 17], "confidence": [0.0, 5.0, 18.0], "count": [0, 10, 20]}
        (folder / "reliability.json").write_text(json.dumps({"model": bins, "ema": bins}))
        best = {"score": rows[-1]["ema_top1"], "step": epochs * steps, "epoch": epochs}
        summary = {"step": epochs * steps, "finished": True, "best": best, "last": rows[-1]}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "model.safetensors").write_bytes(b"x" * 739_936)
        return folder

    return write
