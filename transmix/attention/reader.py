"""The attention reader: returns the class token's attention in a training forward, for the images of that forward.

The forward of one module, the last attention of the class token, runs under a mode that sees every torch function that
it calls. For fused attention, the mode computes the one row that is needed from the same query and key; the fused
function itself runs as before. If a module computes its attention itself, the row comes from its softmax. The model's
code, weights, hooks and outputs do not change.

A row belongs to the images it was computed from. The reader remembers the inputs of the model and of the module that
cuts patches; `take(images)` returns the row of these images, or raises.
"""

import weakref
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transmix.attention.attach import Reading, Row, allow_checkpointing_under_compile, attach
from transmix.attention.belongs import FITS, compare, same_view, shares_memory
from transmix.attention.error import AttentionError
from transmix.attention.find import ClassAttention, find_class_attention, last_norm, unwrap
from transmix.attention.grid import cutter_of, find_grid, stride_of
from transmix.attention.head import ClassAttentionHead
from transmix.attention.record import (
    KEPT,
    note_block,
    note_grid,
    note_images,
    note_part,
    note_size,
    note_tokens,
    read_row,
)
from transmix.attention.rollout import blocks_of


class Attention(NamedTuple):
    """The class token's attention over the patches of one batch.

    Attributes:
        row: (B, P) float32, the softmax row over the patches, mean over heads; sums to at most 1.
        grid: (h, w) of the patches, row-major.
        extent: (height, width) in pixels of the images that the grid covers: more than the images where the model pads
            them at the right and bottom, less where it leaves a remainder out.
    """

    row: Tensor
    grid: tuple[int, int]
    extent: tuple[int, int]


def _switch(name: str, text: str) -> property:
    # Traced code reads the switch from `Reading`, so the reader holds no second copy of it.
    return property(lambda one: getattr(one._reading, name), lambda one, on: setattr(one._reading, name, on), doc=text)


class AttentionReader:
    """Reads the class token's attention over the patches, with fused attention left on.

    Works in eager mode and under torch.compile(fullgraph=True), autocast, gradient checkpointing, DDP and FSDP2,
    attached before or after those. Costs nothing in eval mode unless `eval` is set. A deep copy of the model alone
    (EMA) is not read; copied together with its reader (in one deepcopy or pickle) it is, by the reader's copy.

    Args:
        model: a ViT of timm, torchvision or Hugging Face, a model `with_class_attention`; or any model, with `module`.
        module: the module (or its dotted name) that attends for the class token, if not the model's last.
        prefix_tokens: how many tokens come before the patches among those that `module` attends to, if the model does
            not say: 1 for a class token alone, 0 for a pool over the patches.
        grid: (h, w) of the patches, if the model does not tell.
        training: read in training mode.
        eval: read in eval mode, for figures. Both can be changed at any time.
        every_block: record the attention of every block too; `take_record` returns it.
        tokens: record the patches' tokens after the last norm too; `take_record` returns them.

    Raises:
        AttentionError: the model has no class attention to read (or, if asked, no stack of blocks, no last norm), or
            is being read already.

    Example:
        >>> with AttentionReader(model) as reader:
        ...     logits = model(images)
        ...     row, grid, extent = reader.take(images)  # (B, P), (h, w), (H, W)
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module | str | None = None,
        *,
        prefix_tokens: int | None = None,
        grid: tuple[int, int] | None = None,
        training: bool = True,
        eval: bool = False,
        every_block: bool = False,
        tokens: bool = False,
    ):
        bare = unwrap(model)
        found, part = _as_known(bare, find_class_attention(bare, module, prefix_tokens), prefix_tokens)
        self.name = found.name
        tells_grid = found.grid_from is found.module
        known = found.name, found.prefix_tokens, prefix_tokens is not None
        self._reading = Reading(*known, grid, tells_grid, training, eval, every_block=every_block, active=True)
        self._stride = stride_of(bare, found.name)
        self._forget_batches()
        cutter = found.grid_from and cutter_of(found.grid_from)
        places = [(found.module, read_row), (cutter, note_grid), (found.size_from, note_size), (bare, note_images)]
        places += [] if part is bare else [(part, note_part)]
        places += [(block, note_block) for block in blocks_of(bare, found.name)] if every_block else []
        places += [(last_norm(bare), note_tokens)] if tokens else []
        try:
            for place, work in places:
                if place is not None and not (place is found.module and work is not read_row):
                    attach(place, self._reading, work)
        except AttentionError:
            self.detach()
            raise
        allow_checkpointing_under_compile(bare)

    def _forget_batches(self) -> None:
        # Weak references: a batch must not stay in memory because a message may one day name it.
        self._handed: list[weakref.ref[Tensor]] = []
        self._dropped: list[weakref.ref[Tensor]] = []
        self._taken: weakref.ref[Tensor] | None = None
        self._last_grid: tuple[int, int] | None = None
        # What became of images of one shape on their way into the model. Comparing pixels waits for the device, so it
        # happens once for each shape; the code between is the same at every step.
        self._checked: dict[tuple, str] = {}

    @property
    def attention(self) -> Tensor:
        """(B, P) float32: the softmax row of the last forward, mean over heads; sums to at most 1.

        Raises:
            AttentionError: no forward has left a row since it was last taken.
        """
        if not self._reading.rows:
            raise AttentionError(self._why_nothing(None))
        # A copy: under mode="reduce-overhead" (CUDA graphs) the next forward writes into the same memory.
        return self._reading.rows[-1].row.clone()

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches in `attention`, or else of those last taken; None before.

        Raises:
            ValueError: the patches do not make a grid over the images that the model saw.
        """
        return self._as_attention(self._reading.rows[-1], None).grid if self._reading.rows else self._last_grid

    training = _switch("training", "Whether forwards in training mode are read.")
    eval = _switch("eval", "Whether forwards in eval mode are read.")

    @property
    def model(self) -> nn.Module:
        """The model that is read, not wrapped.

        Raises:
            AttentionError: it is gone, or this is a copy that was made without it.
        """
        for place in self._reading.standing():
            if place.work is note_images:
                return place.module
        raise AttentionError(self._why_nothing(None))

    def take(self, images: Tensor | None = None, rows: slice | None = None) -> Attention:
        """Return the attention over a batch of images and forget it, so that no other batch can take it.

        Args:
            images: (B, C, H, W) that the model was given. A row computed from the same memory is theirs. If there is
                none, but one forward alone could be theirs (normalised, cast or resized on the way), that row is taken;
                the first time for each shape, pixels are compared, which reads from the device.
                None: whatever the last forward saw.
            rows: which rows of the model's batch `images` are, if it saw more than them (torch.cat).

        Raises:
            AttentionError: no row is known to belong to these images; the text says why and what to do.
            ValueError: the patches do not make a grid over the images.
        """
        return self.take_record(images, rows)[0]

    def take_record(self, images: Tensor | None = None, rows: slice | None = None) -> tuple[Attention, Row]:
        """Return what `take` does, and all else that the forward left; arguments and errors as there."""
        kept = self._reading.rows
        if not kept:
            raise AttentionError(self._why_nothing(images))
        index = len(kept) - 1 if images is None else self._index_of(images, rows)
        # By index and not by `kept.remove`: that compares rows, and under torch.compile tensors cannot be compared.
        found = kept[index]
        taken = self._as_attention(found, images, rows)
        del kept[index]
        self._last_grid = taken.grid
        if images is not None and not torch.compiler.is_compiling():
            self._taken = weakref.ref(images)
        if rows is not None and found.tokens is not None:
            found = found._replace(tokens=found.tokens[rows])
        return taken, found

    def _index_of(self, images: Tensor, rows: slice | None) -> int:
        kept = self._reading.rows
        if rows is None:
            for index in range(len(kept) - 1, -1, -1):
                if len(kept[index].row) != len(images):  # several views of each image, stacked within the model
                    continue
                if same_view(images, kept[index].images) or same_view(images, kept[index].cut):
                    return index
        if torch.compiler.is_compiling():
            raise AttentionError(
                "inside torch.compile attention is matched to the tensor mixed.images itself, and no forward of the "
                "model got that tensor: normalise and cast before mixing, or call tm.relabel outside of the "
                "compiled function"
            )
        fitting = [
            index
            for index, row in enumerate(kept)
            if len(range(len(row.row))[rows or slice(None)]) == len(images) and not self._was_handed(row)
        ]
        if len(fitting) != 1:
            raise AttentionError(self._why_none_fits(images, rows, len(fitting)))
        return fitting[0]

    def _was_handed(self, row: Row) -> bool:
        """Whether a row belongs to the unmixed images that were given to `mix`."""
        return any(same_view(ref(), images) for ref in self._handed for images in (row.images, row.cut))

    def _as_attention(self, found: Row, images: Tensor | None, rows: slice | None = None) -> Attention:
        """Check that a row's patches lie on the images as they seem to, and say where."""
        seen = found.cut if found.cut is not None else found.images
        batch = found.images if images is None else images
        row = (found.row if rows is None else found.row[rows]).clone()
        shown = seen if seen is not None and seen.ndim == 4 else batch
        if shown is None or shown.ndim != 4:
            if found.grid is None:
                why = "no known module got images that give their grid: pass grid=(h, w)"
                raise AttentionError(f"{self.name!r} attends over {found.row.shape[1]} patches, but {why}")
            return Attention(row, found.grid, found.grid)
        height, width = shown.shape[-2], shown.shape[-1]
        covers = found.covers or (height, width)
        if batch is not None and batch.ndim == 4 and seen is not None and seen is not batch:
            became = self._compare(batch, seen, rows)
            if became == "resized":
                covers = (round(covers[0] * batch.shape[-2] / height), round(covers[1] * batch.shape[-1] / width))
        return Attention(row, found.grid or find_grid(found.row.shape[1], height, width, self._stride), covers)

    def _compare(self, images: Tensor, seen: Tensor, rows: slice | None) -> str:
        if (rows is None and same_view(images, seen)) or seen.device.type == "meta":
            return "same"
        key: tuple = (tuple(images.shape), tuple(seen.shape), rows and rows.indices(len(seen)))
        if not torch.compiler.is_compiling() and shares_memory(images, seen):  # perhaps a crop or a transpose
            key += (seen.stride(), seen.storage_offset() - images.storage_offset())
        if key in self._checked:
            return self._checked[key]
        if torch.compiler.is_compiling():
            if tuple(images.shape[-2:]) == tuple(seen.shape[-2:]):
                return "same"
            what = "the model changes the size of its images, which cannot be checked inside torch.compile"
            raise AttentionError(f"{what}: run one step without it first, or resize the images before mixing")
        became = compare(images, seen if rows is None else seen[rows])
        if became not in FITS:
            raise AttentionError(
                f"what {self.name!r} attends over {became}: its patches are not aligned with the mixed images. "
                f"Pass mixed.images unchanged (normalise, crop, pad and transpose before mixing), and call "
                f"mixed = tm.relabel(mixed) right after the forward on them"
            )
        if became != "flat":
            self._checked[key] = became
        return became

    def clear(self, handed: Tensor | None = None) -> None:
        """Forget the recorded rows; `handed` are images about to be mixed: a row of theirs is not the mix's."""
        reading = self._reading
        seen = [images for row in reading.rows for images in (row.images, row.cut) if images is not None]
        self._dropped = [weakref.ref(images) for images in seen]
        if handed is not None:
            self._handed = [*self._handed[1 - KEPT :], weakref.ref(handed)]
        reading.forget()

    def _why_nothing(self, images: Tensor | None) -> str:
        if not self._reading.standing():
            why = "the model that is read is gone, or this is a copy that was made without it"
            remedy = "Copy both in one call, copy.deepcopy((model, tm)), or make a new one for the model in training"
            return f"no attention was recorded: {why}. {remedy}"
        if not self._reading.active:
            why = "the reader is detached"
        elif images is not None and self._taken is not None and same_view(self._taken(), images):
            remedy = "Relabel a batch once, and pass on what that returns: mixed = tm.relabel(mixed)"
            why = f"that of these images was taken already. {remedy}"
        elif images is not None and any(same_view(ref(), images) for ref in self._dropped):
            remedy = "Call mixed = tm.relabel(mixed) right after model(mixed.images)"
            why = f"another batch was mixed since the forward on this one, and mixing drops what came before. {remedy}"
        elif self._reading.ran_unread and self.training:
            remedy = "if this part is meant to stay in eval mode (frozen), set tm.reader.eval = True"
            why = f"it ran in eval mode, in which it is not read. Call model.train() first; {remedy}"
        elif self._reading.ran_unread:
            why = "it ran in training mode, in which it is not read. Call model.eval() first"
        else:
            remedy = "Call the model that is read, not a copy such as its EMA, on these images first"
            why = f"it has not run since. {remedy}: logits = model(mixed.images)"
        return f"no attention was recorded in {self.name!r}: {why}"

    def _why_none_fits(self, images: Tensor, rows: slice | None, fitting: int) -> str:
        kept = self._reading.rows
        sizes = sorted({len(row.row) for row in kept})
        remedy = "call mixed = tm.relabel(mixed) right after the forward on mixed.images"
        if fitting > 1:
            return (
                f"{fitting} forwards of the model could be the one on this batch, and none was given mixed.images "
                f"itself: run the others before mixing or after relabelling, or {remedy}, without a copy of them"
            )
        if any(map(self._was_handed, kept)):
            why = f"{remedy} (a forward on other images does no harm)"
            return f"the model ran on the images as they were before mixing, not on mixed.images: {why}"
        if rows is None and sizes[-1] > len(images):
            why = f"say which, with mixed = tm.relabel(mixed, rows=slice(0, {len(images)})) if they come first"
            return f"the model saw {sizes[-1]} images, of which {len(images)} are this batch: {why}"
        which = "" if rows is None else f"; rows={rows} are not {len(images)} of them"
        return f"the model saw {' and '.join(map(str, sizes))} images, this batch has {len(images)}{which}: {remedy}"

    def detach(self) -> None:
        """Leave the model as it was before; further forwards are not read. Calling it twice does no harm."""
        self._reading.active = False
        for place in self._reading.standing():
            place.remove()
        self._reading.places.clear()
        self.clear()

    def __getstate__(self) -> dict[str, Any]:
        # `active` goes along: a `Reading` that is copied with the model alone is inactive, one with its reader is not.
        return {"name": self.name, "_reading": self._reading, "active": self._reading.active, "_stride": self._stride}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.name, self._reading, self._stride = state["name"], state["_reading"], state["_stride"]
        self._reading.active = state["active"]
        self._forget_batches()

    def __enter__(self) -> "AttentionReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def _as_known(model: nn.Module, found: ClassAttention, prefix_tokens: int | None) -> tuple[ClassAttention, nn.Module]:
    """Return the settings of a known model and that model; of an unknown one, what the search found and the model.

    A model within another (siamese, one that normalises first) is then read as it is alone.
    """
    parts, answer = found.name.split("."), (found, model)
    for count in range(len(parts)):
        part = model.get_submodule(".".join(parts[:count]))
        try:
            known = find_class_attention(part)
        except AttentionError:
            continue
        if known.module is not found.module or isinstance(part, ClassAttentionHead):
            continue
        prefix = known.prefix_tokens if prefix_tokens is None else prefix_tokens
        if prefix is None and hasattr(part, "pool_include_prefix"):  # timm's pools leave these tokens out or not
            prefix = part.num_prefix_tokens if part.pool_include_prefix else 0
        answer = replace(known, name=found.name, prefix_tokens=prefix), part  # type: ignore[arg-type]
        if not isinstance(known.grid_from, ClassAttentionHead):  # such a head is found from outside of its model too
            break
    return answer
