"""The guide: maps of the clean images, for methods that need them to mix and for rules that need them for labels.

Maps come from one forward of a model without gradient, in eval mode: the trained model, its EMA, or a teacher. Or the
user gives a function. The forward runs when a map is first requested, once per batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from transmix.attention.error import AttentionError
from transmix.attention.eval_mode import eval_mode
from transmix.attention.find import has_one_query, unwrap
from transmix.attention.grid import find_grid
from transmix.attention.head import as_patches, is_timms
from transmix.attention.reader import Attention, AttentionReader

KINDS = {
    "class": "the class token's attention; without a class token, the evidence for the image's own class at each place",
    "patches": "the attention from the patches in the last block, mean over heads and patch queries",
}
"""Name -> meaning, of the maps that a guide gives."""

Source = nn.Module | Callable[[Tensor, Tensor], Tensor | Attention]
"""A model, or a function (images, labels) -> maps, (B, P) or (B, h, w), of any positive scale."""


class Guide:
    """Gives maps of clean images, batch by batch.

    The model does not change: training mode of each module, batch norm statistics, random states, gradients.

    Args:
        source: the trained model, its EMA or a teacher (wrapped, compiled or neither), or a function
            (images, labels) -> maps. A timm model without a readable class token gives class maps: its own head applied
            at every place of its features. Class maps can be negative.
        reader: reader of `source`, if the model already has one.
        patches: whether maps of kind "patches" will be requested; one forward then gives both kinds.
        place: module, prefix_tokens, grid of `AttentionReader`, for unknown models.

    Raises:
        AttentionError: the model gives neither attention nor class maps.
    """

    def __init__(self, source: Source, reader: AttentionReader | None = None, patches: bool = False, **place: Any):
        self.source, self.reader, self.patches = source, reader, patches
        if reader is None and isinstance(source, nn.Module):
            bare = unwrap(source)
            try:
                self.reader = AttentionReader(bare, training=False, **place)
            except AttentionError as error:
                if patches or not is_timms(bare):
                    raise AttentionError(
                        f"{error}. Or give the maps yourself: guide=a function (images, labels) -> (B, h, w)"
                    ) from error

        if patches and self.reader is not None and has_one_query(self.reader.name):  # now, not in the middle of a run
            if reader is None:
                self.reader.detach()
            raise AttentionError(_why_no_patches(source))

    def look(self, images: Tensor, labels: Tensor) -> "Look":
        """Return the maps of a batch, computed on first request; images (B, C, H, W), labels (B,) or (B, K)."""
        look = Look(self, images, labels)
        # Under FSDP2 a forward gathers weights from every process. If only the processes ran it whose draw needs a map,
        # they would wait forever for the others.
        if isinstance(self.source, nn.Module) and any(hasattr(weight, "device_mesh") for weight in self._weights()):
            look.run()
        return look

    def detach(self) -> None:
        """Stop reading the model, and leave it as it was."""
        if self.reader is not None:
            self.reader.detach()

    def _weights(self) -> Any:
        assert isinstance(self.source, nn.Module)
        return self.source.parameters()

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Attention], Tensor | None]:
        """Return the maps by kind, and the logits (B, K) if a model gave the maps."""
        if not isinstance(self.source, nn.Module):
            with torch.no_grad():
                return {"class": _given(self.source(images, labels), images)}, None
        if self.reader is None:
            return _class_maps(unwrap(self.source), images, labels)
        return self._read(self.reader, images)

    def _read(self, reader: AttentionReader, images: Tensor) -> tuple[dict[str, Attention], Tensor]:
        reading, bare = reader._reading, reader.model
        was = reading.eval, reading.patches
        reading.eval, reading.patches = True, self.patches
        try:
            with eval_mode(bare), torch.no_grad():
                logits = _logits(bare(images))
            seen, record = reader.take_record(images)
        finally:
            reading.eval, reading.patches = was
        maps = {"class": seen}
        if record.by_patches is not None:
            maps["patches"] = seen._replace(row=record.by_patches)
        return maps, logits


class Look:
    """Maps of one batch of clean images, computed on first request.

    Args:
        guide: looks.
        images: (B, C, H, W).
        labels: (B,) int64 or (B, K) float.
    """

    def __init__(self, guide: Guide, images: Tensor, labels: Tensor):
        self._guide, self._batch = guide, (images, labels)
        self._found: tuple[dict[str, Attention], Tensor | None] | None = None

    def run(self) -> None:
        """Run the guide's forward, unless it has run."""
        if self._found is None:
            self._found = self._guide._forward(*self._batch)
            self._batch = ()  # the images must not stay in memory for as long as their maps

    def maps(self, kind: str = "class") -> Attention:
        """Return maps (B, P) float32 with their grid and the pixels it covers; `KINDS` lists the kinds.

        Raises:
            AttentionError: the guide cannot give maps of this kind.
        """
        self.run()
        assert self._found is not None
        maps = self._found[0]
        if kind in maps:
            return maps[kind]
        # The class token's attention is the saliency of a model; a user's function gives whatever is needed.
        if kind == "saliency" or not isinstance(self._guide.source, nn.Module):
            return maps["class"]
        raise AttentionError(_why_no_patches(self._guide.source))

    def logits(self) -> Tensor:
        """Return the logits (B, K) float32 of the clean images, without gradient.

        Raises:
            AttentionError: the maps come from a function, which gives none.
        """
        self.run()
        assert self._found is not None
        if self._found[1] is None:
            raise AttentionError(
                "the logits of the clean images are needed, and a function as guide gives none: guide=a model"
            )
        return self._found[1]


def _why_no_patches(source: Any) -> str:
    return (
        f"{type(unwrap(source)).__name__} gives no maps of {KINDS['patches']}: the class token is the only query in "
        f"its last block. Use a ViT whose last block attends over all tokens, or give the maps: guide=a function "
        f"(images, labels) -> (B, h, w)"
    )


def _logits(output: Any) -> Tensor:
    """Return the logits of a model's output: a tensor, an object with .logits, or the first of several."""
    output = getattr(output, "logits", output)
    return (output if isinstance(output, Tensor) else output[0]).detach().float()


def _given(maps: Tensor | Attention, images: Tensor) -> Attention:
    """Return maps that a function gave, checked."""
    height, width = images.shape[-2:]
    if isinstance(maps, Attention):
        row, grid, extent = maps
    else:
        grid = (maps.shape[1], maps.shape[2]) if maps.ndim == 3 else None
        row, extent = maps.flatten(1), (height, width)
        grid = grid or find_grid(row.shape[1], height, width)
    if row.ndim != 2 or len(row) != len(images) or grid[0] * grid[1] != row.shape[1]:
        raise ValueError(f"a guide gives maps ({len(images)}, h, w) or ({len(images)}, P), not {tuple(row.shape)}")
    return Attention(row.detach().to(images.device).float(), grid, extent)


def _class_maps(model: Any, images: Tensor, labels: Tensor) -> tuple[dict[str, Attention], Tensor]:
    """Return maps of the evidence for each image's own class, of a timm model that averages its features.

    Each place of the features goes through the model's own head alone: where that is linear, the mean over the places
    is the class's logit.

    Source: Zhou et al., Learning deep features for discriminative localization (CVPR 2016), with the head's own bias
    and norms.
    """
    with eval_mode(model), torch.no_grad():
        features = model.forward_features(images)
        logits = _logits(model.forward_head(features))
        if not isinstance(features, Tensor):
            raise AttentionError(f"{type(model).__name__}'s features are in several pieces: no one map of a class")
        prefix = getattr(model, "num_prefix_tokens", None) or 0
        tokens = features[:, prefix:] if features.ndim == 3 else features
        patches = as_patches(tokens, model.num_features)
        alone = patches.flatten(0, 1)
        if features.ndim == 3:
            alone = alone[:, None].expand(-1, prefix + 1, -1)
            grid = find_grid(patches.shape[1], *images.shape[-2:])
        elif features.shape[1] == model.num_features:
            alone, grid = alone[:, :, None, None], (features.shape[2], features.shape[3])
        else:
            alone, grid = alone[:, None, None], (features.shape[1], features.shape[2])
        evidence = _logits(model.forward_head(alone)).unflatten(0, patches.shape[:2])  # (B, P, K)
    if labels.is_floating_point():
        row = torch.einsum("bpk,bk->bp", evidence, labels.float())
    else:  # a row without a label (-100) has a map of no use
        row = evidence.gather(2, labels.clamp(min=0)[:, None, None].expand(-1, evidence.shape[1], 1))[..., 0]
    return {"class": Attention(row, grid, (images.shape[-2], images.shape[-1]))}, logits
