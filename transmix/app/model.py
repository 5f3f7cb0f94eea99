"""The model of the page: on its device, with cached results and the code that loads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from transmix.app.picture import read_picture
from transmix.app.tables import find_methods, find_rules, unserved
from transmix.attention import AttentionReader, attention_maps
from transmix.attention.eval_mode import eval_mode
from transmix.attention.guide import Guide
from transmix.attention.reader import Attention
from transmix.attention.rollout import Rollout
from transmix.data.dataset import DataError, ImageData
from transmix.data.masks import open_foregrounds
from transmix.metrics import METRICS
from transmix.mixing import Mixed, Mixer
from transmix.mixing.mixer import looks_at
from transmix.models.loaded import RANDOM, LoadedModel
from transmix.recipes.settings import Mixing
from transmix.runs.weights import NAMES
from transmix.visual.boxes import draw_boxes
from transmix.visual.labels import NO_MASKS
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

Image = Path | int
"""An image of the page: a file, or the position of a validation image."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What one forward on one image leaves, on the CPU.

    Attributes:
        attention: (P,) of the class token in the last layer, mean over the heads.
        logits: (K,).
        rollout: for rules that follow labels from block to block, on the model's device; None: the model has none.
    """

    attention: Tensor
    logits: Tensor
    rollout: Rollout | None


class PageModel:
    """A model and its attention over one image. Results of the last few images are cached.

    Safe to use from several threads: one forward at a time.

    Args:
        loaded: The model.
        device: Target device.
        options: Arguments of `load_model` that it was loaded with, for the code that the page shows.
        data: Data whose validation images are shown; None: example photographs.

    Attributes:
        loaded: The model, on the device.
        classes: K class names; None: the logits have no class names.
        notice: Warning to show first, for example that the weights are random.
        size: (H, W) of the images it takes.
        grid: (h, w) of its patches.
        heads: Layer number -> number of heads, for each layer in which the class token attends to the patches.
        methods: Name -> mixing method, with the run's settings where the run uses it.
        rules: Name -> label rule: "area", "attention" alone, "trained" (the run's own, else TransMix's), then the rest
            of the table with its defaults.
        notes: Rule -> a few words about it.
        no_methods: Method -> why this model cannot serve it.
        no_rules: Rule -> why this model can serve it for no image.

    Raises:
        AttentionError: The model's attention cannot be read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        device: torch.device,
        options: Mapping[str, Any] | None = None,
        data: ImageData | None = None,
    ):
        self.loaded, self.device, self.data = loaded, device, data
        self.classes = loaded.classes or _imagenet_names(loaded.model)
        self.notice = RANDOM_NOTICE if loaded.weights == RANDOM else ""
        self._options = dict(options or {})
        self._model = loaded.model.to(device)
        self.normalise = loaded.preprocessing.normaliser(device)
        self.size = loaded.preprocessing.height_width
        self._first = look(self._model, self.normalise(torch.zeros(1, 3, *self.size, dtype=torch.uint8)))
        self.grid, self.extent = self._first.grid, self._first.extent or self.size
        self.heads = {number: rows.shape[1] for number, rows in layer_rows(self._first)}
        mixing = loaded.recipe.mixing if loaded.recipe else Mixing()
        self.methods, self.no_methods = find_methods(self._model, mixing)
        self.rules, self.notes = find_rules(mixing)
        self._foreground, no_masks = _foregrounds(data, loaded.preprocessing.crop)
        self.no_rules, self._rolls = unserved(self._model, self.rules, no_masks)
        self._lock = Lock()
        self._seen, self._mapped = lru_cache(maxsize=8)(self._see), lru_cache(maxsize=8)(self._map)

    def code(self, with_data: bool) -> str:
        """Return the line that loads the model, and its data if asked for."""
        target = str(Path(self.loaded.target).resolve()) if Path(self.loaded.target).exists() else self.loaded.target
        options = {"weights": "auto", **self._options} if with_data else self._options
        given = "".join(f", {name}={value!r}" for name, value in options.items() if with_data or name != "data")
        call = f"{target!r}{given}"
        return f"(loaded,), data = load_with_data({call})" if with_data else f"loaded = load_model({call})"

    @property
    def weights(self) -> str:
        """Which weights are shown, and their score, in a few words."""
        chosen = self.loaded.chosen
        if chosen is None:
            return self.loaded.weights
        top1 = METRICS["top1"]
        known = f", {top1.label} {top1.write(chosen.scores['top1'])}" if "top1" in chosen.scores else ", not evaluated"
        return f"{NAMES[chosen.name]} of step {chosen.step} ({chosen.checkpoint} checkpoint){known}"

    def image(self, one: Image) -> Tensor:
        """Return an image as the model takes it, (3, H, W) uint8.

        Raises:
            DataError: It cannot be read.
        """
        seen = self.loaded.preprocessing
        if isinstance(one, int):
            assert self.data is not None
            return seen.crop(self.data.val.image(one))
        return seen.crop(read_picture(one, seen.grey))

    def label(self, one: Image) -> int | None:
        """Return the class number of an image; None: not known."""
        return int(self.data.val.labels[one]) if isinstance(one, int) and self.data is not None else None

    def foreground(self, given: Sequence[Image]) -> tuple[Tensor | None, str]:
        """Return where the objects of images are, (N, H, W) bool; or None, and why it is not known."""
        if self._foreground is None:
            return None, NO_MASKS
        numbers = [one for one in given if isinstance(one, int)]
        if len(numbers) < len(given):
            return None, f"{NO_MASKS}, which only the validation images have"
        try:
            return torch.stack([self._foreground(one) for one in numbers]), ""
        except DataError as error:
            return None, str(error)

    def pair(self, number: int) -> tuple[int, int] | None:
        """Return the positions of two validation images of different classes; None: there are none to show."""
        if self.data is None or len(self.data.val) < 2:
            return None
        val = self.data.val
        return draw_boxes(1, len(val), self.size, number, labels=val.labels)[0][:2]

    def number_of(self, layer: int) -> int:
        """Return a layer's number; `LAST` where the class token looks at the patches in none."""
        return max(self.heads, default=LAST) if layer == LAST else layer

    def see(self, image: Tensor) -> Seen:
        """Run the model on an image (3, H, W), normalised; one that is not cached costs one forward."""
        return self._seen(image.cpu().contiguous().numpy().tobytes())

    def row(self, image: Tensor, layer: int = LAST, head: int = MEAN) -> Tensor:
        """Return the class token's attention (P,) over an image as above.

        Another head or layer costs a second forward: full attention maps take much memory, and dragging a box does not
        need them.
        """
        if layer == LAST and head == MEAN:
            return self.see(image).attention
        maps = self.maps(image)
        heads = dict(layer_rows(replace(self._first, maps=maps)))[self.number_of(layer)][0]
        return heads.mean(0) if head == MEAN else heads[head]

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the full attention maps (1, G, N, N) of every layer, for an image as above."""
        return self._mapped(image.cpu().contiguous().numpy().tobytes())

    def mix(self, name: str, seed: int, images: Tensor, labels: Tensor) -> Mixed:
        """Mix two normalised images (2, C, H, W) by a method, as drawn from a seed."""
        method = self.methods[name]
        mixer = Mixer(methods=[method], generator=torch.Generator().manual_seed(seed))
        if looks_at(method) in (None, "saliency"):
            return mixer(images, labels)
        with self._lock:
            guide = Guide(self._model, patches=looks_at(method) == "patches")
            try:
                return mixer(images, labels, guide.look(images, labels))
            finally:
                guide.detach()

    def _image(self, pixels: bytes) -> Tensor:
        return torch.frombuffer(bytearray(pixels), dtype=torch.float32).view(1, 3, *self.size).to(self.device)

    def _see(self, pixels: bytes) -> Seen:
        inputs = self._image(pixels)
        with self._lock:
            reader = AttentionReader(self._model, training=False, eval=True, every_block=self._rolls)
            with reader, eval_mode(self._model), torch.no_grad():
                logits = self._model(inputs)
                (row, grid, extent), record = reader.take_record(inputs)
        rollout = Rollout(record.blocks, record.prefix, grid, extent, slice(None)) if self._rolls else None
        return Seen(row[0].cpu(), logits[0].float().cpu(), rollout)

    def _map(self, pixels: bytes) -> tuple[Tensor, ...]:
        with self._lock:
            return tuple(one.cpu() for one in attention_maps(self._model, self._image(pixels)))

    def attention(self, rows: Tensor) -> Attention:
        """Return rows (B, P) with their grid, as rules take them."""
        return Attention(rows, self.grid, self.extent)


def _foregrounds(
    data: ImageData | None, crop: Callable[[np.ndarray], Tensor]
) -> tuple[Callable[[int], Tensor] | None, str]:
    """Return validation image -> where its object is; or None, and why it is not known."""
    if data is None:
        return None, NO_MASKS
    try:
        return open_foregrounds(data, crop), ""
    except DataError as error:
        return None, str(error)


def _imagenet_names(model: nn.Module) -> tuple[str, ...] | None:
    if (subset := infer_imagenet_subset(model)) is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index).split(",")[0] for index in range(info.num_classes()))
