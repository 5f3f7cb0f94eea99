"""The model of the page: on its device, with cached results and the code that loads it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from transmix.attention import attention_maps
from transmix.models.loaded import RANDOM, LoadedModel
from transmix.recipes.mixing import rule_name
from transmix.recipes.settings import Mixing
from transmix.visual.boxes import trained_rule
from transmix.visual.look import layer_rows, look

LAST, MEAN = -1, -1
"""The last layer, and the mean over its heads: together the very row that TransMix reads."""

DEFAULT = "deit_tiny_patch16_224"
"""What is shown when nothing is named: the smallest of the paper's family."""

RANDOM_NOTICE = (
    "The weights of this model are random: its published ones are not on this machine. Where an untrained model looks "
    "means nothing; only the arithmetic of the label can be seen. Start `transmix app` with a run folder, a "
    ".safetensors file, or the name of a timm model, whose published weights are then fetched."
)


class PageModel:
    """A model and its attention over one image. Results of the last few images are cached.

    Safe to use from several threads: one forward at a time.

    Args:
        loaded: The model.
        device: Target device.
        options: Arguments of `load_model` that it was loaded with, for the code that the page shows.

    Attributes:
        loaded: The model, on the device.
        classes: K class names; None: the logits have no class names.
        code: The call that loads it.
        notice: Warning to show first, for example that the weights are random.
        size: (H, W) of the images it takes.
        grid: (h, w) of its patches.
        heads: Layer number -> number of heads, for each layer in which the class token attends to the patches.
        weights: Rule -> weight of attention in its label; "trained": the run's weight, else the paper's.

    Raises:
        AttentionError: The model's attention cannot be read.
    """

    def __init__(self, loaded: LoadedModel, device: torch.device, options: Mapping[str, Any] | None = None):
        self.loaded, self.device = loaded, device
        self.classes = loaded.classes or _imagenet_names(loaded.model)
        self.notice = RANDOM_NOTICE if loaded.weights == RANDOM else ""
        target = str(Path(loaded.target).resolve()) if Path(loaded.target).exists() else loaded.target
        given = "".join(f", {name}={value!r}" for name, value in (options or {}).items())
        self.code = f"load_model({target!r}{given})"
        self._model = loaded.model.to(device)
        self._normalise = loaded.preprocessing.normaliser(device)
        self.size = loaded.preprocessing.height_width
        self._first = look(self._model, self._normalise(torch.zeros(1, 3, *self.size, dtype=torch.uint8)))
        self.grid = self._first.grid
        self.heads = {number: rows.shape[1] for number, rows in layer_rows(self._first)}
        mixing = loaded.recipe.mixing if loaded.recipe else Mixing()
        if (labels := rule_name(mixing)) != "attention":
            self.notice += f"This run trains with labels by `{labels}`; `trained` on this page is TransMix's label. "
        self.weights = {"area": 0.0, "attention": 1.0, "trained": trained_rule(mixing).weight}
        self._lock = Lock()
        self._remembered = lru_cache(maxsize=32)(self._forward)

    def number_of(self, layer: int) -> int:
        """Return a layer's number; `LAST` where the class token looks at the patches in none."""
        return max(self.heads, default=LAST) if layer == LAST else layer

    def see(self, image: Tensor, layer: int = LAST, head: int = MEAN) -> tuple[Tensor, Tensor]:
        """Return the class token's attention (P,) over an image (3, H, W) uint8, and the logits (K,).

        An image that is not cached costs one forward. Another head or layer costs a second one: full attention maps
        take much memory, and dragging a box does not need them.
        """
        pixels = image.contiguous().numpy().tobytes()
        if layer == LAST and head == MEAN:
            rows, logits = self._remembered(pixels, False)
            return rows[LAST][0], logits
        rows, logits = self._remembered(pixels, True)
        heads = rows[self.number_of(layer)]
        return heads.mean(0) if head == MEAN else heads[head], logits

    def _forward(self, pixels: bytes, every_layer: bool) -> tuple[dict[int, Tensor], Tensor]:
        """Return layer -> (G, P), or `LAST` -> (1, P) of the reader alone, and the logits."""
        image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(1, 3, *self.size)
        logits: list[Any] = []
        with self._lock:
            hook = self._model.register_forward_hook(lambda _, __, output: logits.append(output))
            try:
                inputs = self._normalise(image)
                if every_layer:
                    maps = tuple(one.cpu() for one in attention_maps(self._model, inputs))
                    rows = {number: one[0] for number, one in layer_rows(replace(self._first, maps=maps))}
                else:
                    rows = {LAST: look(self._model, inputs, maps=False).attention}
            finally:
                hook.remove()
        return rows, logits[0][0].float().cpu()


def _imagenet_names(model: nn.Module) -> tuple[str, ...] | None:
    if (subset := infer_imagenet_subset(model)) is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index).split(",")[0] for index in range(info.num_classes()))
