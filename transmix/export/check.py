"""Check that exported files give the same logits as the run's model."""

from collections.abc import Callable

import torch
from torch import Tensor

from transmix.export.error import ExportError
from transmix.models.loaded import LoadedModel

TOLERANCE = 1e-4
"""Largest difference of a logit, as a fraction of the largest logit (or of 1, if that is larger)."""


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
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"{program} cannot open the export: {reason}. Leave this format out") from error
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
