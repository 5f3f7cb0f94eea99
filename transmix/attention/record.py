"""Work around forwards: record the class token's row, the grid of its patches, and the images that it belongs to."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from transmix.attention.attach import Place, Reading, Row
from transmix.attention.error import AttentionError
from transmix.attention.grid import grid_of
from transmix.attention.head import ClassAttentionHead
from transmix.attention.rollout import Calls
from transmix.attention.row import FUSED, SOFTMAX, first_row, is_over_keys

KEPT = 4
"""Rows that are kept at the most, of forwards whose row nobody took."""


class _Watch(TorchFunctionMode):
    """Record the class token's row from the torch functions that a module's forward calls.

    Args:
        whole: compute the weights of every query, not of the class token's alone.

    Attributes:
        fused: (weights, number of queries) of each call of fused attention; of the first query unless `whole`.
        formed: the same of each softmax over keys.
    """

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.queries = None if whole else 1
        self.fused: list[tuple[Tensor, int]] = []
        self.formed: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # A mode and not a patched F: it sees calls through any alias of the function, and dynamo traces through it.
        # torch leaves the mode while this method runs, so the functions called here do not come back to it. What runs
        # inside multi_head_attention_forward is not seen either: its row is computed from the arguments of the outer
        # call, and entering the mode again to see the inner one would recurse for ever.
        kwargs = kwargs or {}
        if func in FUSED:
            query = args[0] if args else kwargs["query"]
            queries = query.shape[-2 if func is F.scaled_dot_product_attention else 0]
            self.fused.append((FUSED[func](*args, **kwargs, queries=self.queries), queries))
        output = func(*args, **kwargs)
        if func in SOFTMAX and is_over_keys(output, args, kwargs):
            self.formed.append((output[:, :, : self.queries].detach(), output.shape[2]))
        return output


def read_row(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Around the module that is read: record the row."""
    reading, module = place.reading, place.module
    if not (reading.training if module.training else reading.eval):
        reading.ran_unread = True
        return place.run(*args, **kwargs)
    watch = _Watch(reading.patches and not module.training)
    with watch:
        output = _run_block(place, args, kwargs) if reading.every_block else place.run(*args, **kwargs)
    rows = watch.fused or watch.formed  # a fused function may itself call softmax
    kind = type(module).__name__
    if len(rows) != 1:
        remedy = "Point at the one module that computes the class token's attention"
        if not rows:
            remedy = "Attention of another kind, or inside an extension, cannot be read: point at another module"
        raise AttentionError(
            f"expected {reading.name!r} ({kind}) to compute attention once, with torch's scaled_dot_product_attention "
            f"or a softmax over (batch, heads, queries, keys), but it did {len(rows)} times. {remedy}"
        )
    weights, queries = rows[0]
    row = first_row(weights)
    seen = reading.cut if reading.cut is not None else reading.images
    if seen is not None and seen.ndim == 4 and len(row) != len(seen):
        remedy = "Windows, frames or crops in the batch axis cannot be separated: use one image per row"
        if len(row) < len(seen):
            why = "Its block drops whole samples (stochastic depth over a part of the batch)"
            remedy = f"{why}: set drop_path of this block to 0"
        what = f"{reading.name!r} ({kind}) attended over {len(row)} rows where the model was given {len(seen)} images"
        raise AttentionError(f"{what}. {remedy}")
    grid, covers = grid_of(module, args[0], output) if reading.tells_grid else (reading.grid, reading.covers)
    grid = reading.given_grid or grid
    first, patches = _patch_columns(reading, kind, row.shape[1], queries, grid)
    if len(reading.rows) >= KEPT:  # forwards that nobody relabels (a second view) must not fill the memory
        del reading.rows[0]
    columns, mean = slice(first, first + patches), None
    if watch.queries is None and queries == row.shape[1]:
        mean = weights[:, :, columns, columns].float().mean((1, 2))
    blocks = tuple(reading.blocks)
    reading.rows.append(Row(row[:, columns], grid, reading.images, reading.cut, covers, first, mean, blocks))
    return output


def _patch_columns(
    reading: Reading, kind: str, tokens: int, queries: int, grid: tuple[int, int] | None
) -> tuple[int, int]:
    """Return at which of `tokens` columns the patches begin, and how many they are."""
    known = reading.prefix_tokens
    if grid is None or (reading.prefix_given and known is not None and known + grid[0] * grid[1] > tokens):
        prefix = 1 if known is None else known
        patches = tokens - prefix
    else:
        patches = grid[0] * grid[1]
        prefix = tokens - patches if known is None else known
    behind = tokens - prefix - patches
    what = f"{reading.name!r} ({kind}) attends over {tokens} tokens, "
    if patches < 1 or prefix < 0 or behind < 0 or (queries > 1 and prefix < 1):
        why = "patch dropout, merged patches, or not the class token's attention"
        raise AttentionError(f"{what}which cannot be {patches} patches after a class token (grid {grid}): {why}")
    extra = prefix - 1 if known is None else behind
    if extra > 0 and not reading.prefix_given:
        least = 1 if known is None else known
        raise AttentionError(
            f"{what}but {least} before {grid} = {patches} patches make {least + patches}: {extra} are unknown. Pass "
            f"prefix_tokens={least + extra} if they come before the patches, prefix_tokens={least} if after them"
        )
    return prefix, patches


def note_block(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Around the attention of a block before the last: record its call, from which tokens can be rolled out."""
    reading = place.reading
    wanted = reading.training if place.module.training else reading.eval
    return _run_block(place, args, kwargs) if wanted else place.run(*args, **kwargs)


def _run_block(place: Place, args: tuple, kwargs: dict[str, Any]) -> Any:
    watch = Calls()
    with watch:
        output = place.run(*args, **kwargs)
    place.reading.blocks.append(watch.fused[0] if watch.fused else watch.formed[0] if watch.formed else None)
    return output


def note_tokens(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Around the last norm: add the patches' tokens to the row of this forward, which the last block has just left."""
    output, rows = place.run(*args, **kwargs), place.reading.rows
    # Only of the forward that left the row: an unread one (a clean view in eval mode) goes through this norm too.
    last = rows[-1] if rows else None
    if last is not None and last.tokens is None and last.images is place.reading.images and output.ndim == 3:
        tokens = output[:, last.prefix : last.prefix + last.row.shape[1]]
        rows[-1] = Row(*last[:-1], tokens)
    return output


def note_grid(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Wrap the module that cuts patches: record its input and the grid it makes."""
    seen = _first(args, kwargs)
    if isinstance(place.module, ClassAttentionHead):  # it holds the module that is read: after `run` is too late
        place.reading.grid, place.reading.covers = grid_of(place.module, seen, None)
        return place.run(*args, **kwargs)
    output = place.run(*args, **kwargs)
    grid, covers = grid_of(place.module, seen, output)
    place.reading.grid, place.reading.covers = grid, covers
    if covers is not None:
        place.reading.cut = seen
    return output


def note_size(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Wrap a module that takes the images but does not cut the patches that are attended to."""
    place.reading.cut = _first(args, kwargs)
    return place.run(*args, **kwargs)


def note_images(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Around the whole model: note which images this forward is on."""
    reading = place.reading
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim > 2]
    images = [value for value in given if value.ndim == 4] or given
    if any(value.ndim == 5 for value in given) and reading.training and place.module.training:
        why = "patches of several frames do not form one 2-D grid. Mix and read single frames (B, C, H, W)"
        raise AttentionError(f"{type(place.module).__name__} was given {tuple(images[0].shape)}: {why}")
    # An alias and no copy: the identity of this memory is what tells later whose row it is.
    reading.cut = reading.grid = reading.covers = None
    reading.blocks = []
    reading.images = images[0] if len(images) == 1 else None
    output = place.run(*args, **kwargs)
    # Else the reader would keep the batch in memory until the next forward.
    reading.images = reading.cut = None
    reading.blocks = []
    return output


def note_part(place: Place, *args: Any, **kwargs: Any) -> Any:
    """Around a known model within the whole one: note what it is given, unless more is told later."""
    reading, whole = place.reading, place.reading.images
    reading.cut = _first(args, kwargs)
    if whole is None:  # the whole model was given several images, as a siamese model is
        reading.images = reading.cut
    output = place.run(*args, **kwargs)
    reading.images = whole
    return output


def _first(args: tuple, kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()))
