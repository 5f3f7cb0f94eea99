"""Hugging Face Transformers: it loads timm's layout directly, as TimmWrapperForImageClassification."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from transmix.export.check import check_same
from transmix.export.error import ExportError
from transmix.models.loaded import LoadedModel


def check_huggingface(folder: Path, loaded: LoadedModel) -> None:
    """Open a folder in timm's layout with Transformers and compare logits and class names.

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
