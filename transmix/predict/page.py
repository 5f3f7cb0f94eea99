"""The page of predictions: the least certain images, and the worst mistakes with where the model looked."""

import heapq
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from transmix.attention import AttentionError
from transmix.data.augment import to_tensor
from transmix.evaluation.evaluate import Evaluator
from transmix.predict.predictions import Prediction
from transmix.report.format import percent, whole
from transmix.report.page import render, write_page
from transmix.visual.html import data_uri, png_uri
from transmix.visual.look import look
from transmix.visual.overlay import as_picture, attention_notes, attention_overlay, scale_end, tinted

MISTAKES, BROKEN = 24, 100
"""How many a page shows: wrong images, and names of unreadable ones."""

SIDE, TINY = 224, 64
"""Pixels of the longer side of a picture, a larger one is scaled down; and of one that is kept pixel by pixel."""


@dataclass(eq=False)
class Gallery:
    """What a page shows of any number of predictions, collected one by one in little memory.

    Attributes:
        most: number of the least certain images.
        images: number of all images.
        broken: (path, reason) of the first `BROKEN` images without a prediction.
        errors: number of all images without a prediction.
        labelled: number of predictions with a label.
        right: number of them whose most probable class is the label.
    """

    most: int = 100
    images: int = 0
    errors: int = 0
    labelled: int = 0
    right: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    _uncertain: list[tuple[float, int, Prediction]] = field(default_factory=list)
    _wrong: list[tuple[float, int, Prediction]] = field(default_factory=list)

    def add(self, one: Prediction) -> None:
        """Add the next prediction."""
        self.images += 1
        if one.error:
            self.errors += 1
            self.broken += [(one.image, one.error)] if len(self.broken) < BROKEN else []
            return
        confidence = float(one.probabilities[0])
        self._keep(self._uncertain, self.most, -confidence, one)
        if one.is_right is not None:
            self.labelled += 1
            self.right += one.is_right
        if one.is_right is False:
            self._keep(self._wrong, MISTAKES, confidence, one)

    def _keep(self, heap: list[tuple[float, int, Prediction]], most: int, value: float, one: Prediction) -> None:
        """Keep the predictions of the highest values; of equal ones the first."""
        if len(heap) < most or (value, -self.images) > heap[0][:2]:
            item = value, -self.images, replace(one, pixels=one.pixels.clone())  # a view would hold its whole batch
            if len(heap) == most:
                heapq.heapreplace(heap, item)
            else:
                heapq.heappush(heap, item)

    @property
    def uncertain(self) -> list[Prediction]:
        """The least certain predictions, least first."""
        return [one for *_, one in sorted(self._uncertain, reverse=True)]

    @property
    def mistakes(self) -> list[Prediction]:
        """The wrong predictions of the highest probability, highest first."""
        return [one for *_, one in sorted(self._wrong, reverse=True)]


class Picture(NamedTuple):
    """An image of the page with its prediction."""

    prediction: Prediction
    source: Markup
    attention: Markup | None = None


def write_gallery(path: Path, gallery: Gallery, evaluator: Evaluator, about: dict[str, str]) -> None:
    """Write the page of predictions: one file that stands alone.

    Args:
        path: where to.
        gallery: what it shows.
        evaluator: the model, for where it looked.
        about: how the predictions were made: name -> text.

    Raises:
        RunError: it cannot be written.
    """
    wrong, scale, notes = [Picture(one, _thumbnail(one.pixels)) for one in gallery.mistakes], None, ()
    if wrong:
        try:
            overlays, scale, notes = _attention([one.prediction.pixels for one in wrong], evaluator)
            wrong = [one._replace(attention=overlay) for one, overlay in zip(wrong, overlays, strict=True)]
        except AttentionError as error:
            notes = (f"where the model looked cannot be read: {error}",)
    html = render(
        Path(__file__).with_name("predictions.html"),
        gallery=gallery,
        about=about,
        top1=percent(gallery.right / gallery.labelled) if gallery.labelled else None,
        uncertain=[Picture(one, _thumbnail(one.pixels)) for one in gallery.uncertain],
        wrong=wrong,
        scale=scale,
        notes=notes,
        percent=percent,
        whole=whole,
    )
    write_page(path, html)


def _attention(images: Sequence[Tensor], evaluator: Evaluator) -> tuple[list[Markup], dict[str, str], tuple[str, ...]]:
    """Return pictures of the attention over images (3, H, W) uint8, their scale, and notes.

    Raises:
        AttentionError: the model's attention cannot be read.
    """
    batch = torch.stack(list(images)).to(evaluator.device)
    looked = look(evaluator.model, evaluator.preprocessing.normaliser(evaluator.device)(batch), maps=False)
    rows = looked.attention.numpy()
    end = scale_end(rows)
    overlays = [
        attention_overlay(as_picture(image), row, looked.grid, end) for image, row in zip(images, rows, strict=True)
    ]
    colours = tinted(np.full((1, 9, 3), 0.5), np.linspace(0, 1, 9)[None])[0]
    stops = ", ".join(f"rgb({' '.join(str(round(255 * part)) for part in colour)})" for colour in colours)
    scale = {"stops": stops, "end": f"{end:.3g}", "even": f"{100 / end:.1f}"}
    return [_thumbnail(to_tensor((255 * one).astype(np.uint8))) for one in overlays], scale, attention_notes(rows)


def _thumbnail(pixels: Tensor) -> Markup:
    """Return an image (3, H, W) uint8 as the source of a picture of at most `SIDE` pixels: JPEG, or PNG if tiny."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    if max(image.size) <= TINY:
        return png_uri(np.asarray(image))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return data_uri(file.getvalue(), "image/jpeg")
