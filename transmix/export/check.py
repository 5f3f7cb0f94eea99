"""Checks that exported files give the logits of the run's model, and what goes wrong on the way."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from transmix.error import TransMixError, one_line
from transmix.models.loaded import LoadedModel

TOLERANCE = 1e-4
"""Largest difference of a logit, as a fraction of the largest logit (or of 1, if that is larger)."""


class ExportError(TransMixError):
    """A model that cannot be exported or loaded as asked; the message says why and what to do."""


def check_same(loaded: LoadedModel, load: Callable[[], Callable[[Tensor], Tensor]], program: str) -> None:
    """Load an export and compare its logits on noise, with batches of one and three images.

    Args:
        loaded: the exported model.
        load: loads the export; returns a function from normalised images (B, 3, S, S) to logits (B, K).
        program: name of the library that loads it, for the message.

    Raises:
        ExportError: it cannot be loaded, or gives other logits.
    """
    try:
        other = load()
    except Exception as error:  # whatever the program happens to raise
        raise ExportError(f"{program} cannot open the export: {one_line(error)}. Leave this format out") from error
    generator = torch.Generator().manual_seed(0)
    height, width = loaded.preprocessing.height_width
    for batch in (1, 3):
        images = torch.randn(batch, 3, height, width, generator=generator)
        with torch.inference_mode():
            expected, found = loaded.model(images), other(images)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{program} gives other logits for the export than the run's model (they differ by {difference:.2g} of "
                "the largest). Leave this format out"
            )


def check_huggingface(folder: Path, loaded: LoadedModel) -> None:
    """Open a folder in timm's layout with Transformers and compare logits and class names.

    Transformers opens that layout by itself, as TimmWrapperForImageClassification.

    Raises:
        ExportError: logits or class names differ from the run's.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    def load() -> Callable[[Tensor], Tensor]:
        with _quiet():
            AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        classes = loaded.classes or ()
        names = tuple(model.config.id2label[index] for index in range(len(classes)))
        if names != classes:
            raise ExportError(f"it reads other class names, {names[:3]} for {classes[:3]}")
        return lambda images: model(images).logits

    check_same(loaded, load, "Transformers")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars and irrelevant warnings of the library."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
