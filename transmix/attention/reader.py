"""The attention reader: hands over what the class token saw in the last training forward.

How: the forward of one module (the last attention of the class token) runs under a mode that sees every torch function
called in it. When that is fused attention, the mode computes the one row that is wanted from the same query and key;
fused attention itself runs as it would have. Where a module forms its attention itself, the row is taken from its
softmax. The model's code, weights, hooks and outputs stay as they are.
"""

import importlib
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from transmix.attention.error import AttentionError
from transmix.attention.find import ClassAttention, find_class_attention, unwrap
from transmix.attention.grid import grid_of
from transmix.attention.row import FUSED, SOFTMAX, first_row, is_over_keys
from transmix.mixing.labels import find_grid


class AttentionReader:
    """Reads the class token's attention over the patches, with fused attention left on.

    Works in eager mode and under torch.compile(fullgraph=True), autocast, gradient checkpointing, DDP and FSDP2,
    attached before or after those. Costs nothing in eval mode unless `eval` is set. A deep copy of the model (EMA) is
    not read.

    Args:
        model: a ViT of timm, torchvision or Hugging Face, a model `with_class_attention`; or any model, with `module`.
        module: the module (or its dotted name) that attends for the class token, if not the model's last.
        prefix_tokens: how many tokens come before the patches among those that `module` attends to, if the model does
            not say: 1 for a class token alone, 0 for a pool over the patches.
        training: read in training mode.
        eval: read in eval mode, for figures. Both can be changed at any time.

    Raises:
        AttentionError: the model has no class attention to read, or is being read already.

    Example:
        >>> with AttentionReader(model) as reader:
        ...     logits = model(images)
        ...     attention, grid = reader.attention, reader.grid  # (B, P), (h, w)
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module | str | None = None,
        *,
        prefix_tokens: int | None = None,
        training: bool = True,
        eval: bool = False,
    ):
        bare = unwrap(model)
        self._found = find_class_attention(bare, module, prefix_tokens)
        self._reading = _Reading(self._found, training, eval)
        _attach(self._found.module, _read_class_attention, self._reading)
        try:
            for module, wrapper in ((self._found.grid_from, _note_grid), (self._found.size_from, _note_image_size)):
                if module is not None and module is not self._found.module:
                    _attach(module, wrapper, self._reading)
        except AttentionError:
            self.detach()
            raise
        _allow_checkpointing_under_compile(bare)

    @property
    def attention(self) -> Tensor:
        """(B, P) float32: the softmax row of the last forward, mean over heads; sums to at most 1.

        Raises:
            AttentionError: no forward has left a row since it was last taken.
        """
        if self._reading.row is None:
            mode = "training" if self._reading.training else "eval"
            raise AttentionError(
                f"no attention was recorded in {self._found.name!r}: it is read once per forward in {mode} mode. "
                f"Run the model's forward first, and take its attention once"
            )
        # A copy: with CUDA graphs the next forward writes into the same memory.
        return self._reading.row.clone()

    @property
    def name(self) -> str:
        """The dotted name of the module that is read."""
        return self._found.name

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches in `attention`; None before a forward, and where the model shows no images.

        Raises:
            ValueError: the patches do not make a grid over the images that the model saw.
        """
        reading = self._reading
        if reading.grid is None and reading.image_size is not None and reading.patches:
            return find_grid(reading.patches, *reading.image_size)
        return reading.grid

    @property
    def training(self) -> bool:
        """Whether forwards in training mode are read."""
        return self._reading.training

    @training.setter
    def training(self, on: bool) -> None:
        self._reading.training = on

    @property
    def eval(self) -> bool:
        """Whether forwards in eval mode are read."""
        return self._reading.eval

    @eval.setter
    def eval(self, on: bool) -> None:
        self._reading.eval = on

    def take(self) -> Tensor:
        """Return `attention` and forget it, so that no later batch can be given this one's.

        Raises:
            AttentionError: as `attention`.
        """
        attention = self.attention
        self.clear()
        return attention

    def clear(self) -> None:
        """Forget the recorded row."""
        self._reading.row = None

    def detach(self) -> None:
        """Leave the model as it was before; further forwards are not read. Calling it twice does no harm."""
        for module in (self._found.module, self._found.grid_from, self._found.size_from):
            if module is not None and module.__dict__.get(_SLOT) is self._reading:
                _detach(module)
        self.clear()

    def __enter__(self) -> "AttentionReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


class _Reading:
    """What one reader's modules share: switches, and the row that the last forward left."""

    def __init__(self, found: ClassAttention, training: bool, eval: bool):
        self.name = found.name
        self.prefix_tokens = found.prefix_tokens
        self.tells_grid = found.grid_from is found.module
        self.training = training
        self.eval = eval
        self.grid: tuple[int, int] | None = None
        self.image_size: tuple[int, int] | None = None
        self.patches = 0
        self.row: Tensor | None = None

    def __reduce__(self) -> tuple:
        return _no_reading, ()  # a deep copy (EMA) or a pickle of the model belongs to no reader

    def record(self, row: Tensor, queries: int, module: nn.Module) -> None:
        """Keep the patches' columns of a softmax row (B, S)."""
        tokens = row.shape[1]
        if self.grid is not None:
            patches = self.grid[0] * self.grid[1]
        else:
            patches = tokens - (1 if self.prefix_tokens is None else self.prefix_tokens)
        prefix = tokens - patches
        if patches < 1 or prefix < 0 or (queries > 1 and prefix < 1):
            raise AttentionError(
                f"{self.name!r} ({type(module).__name__}) attends over {tokens} tokens, which cannot be {patches} "
                f"patches after a class token (grid {self.grid}): patch dropout, or not the class token's attention"
            )
        self.row, self.patches = row[:, prefix:], patches


def _no_reading() -> None:
    return None


class _Watch(TorchFunctionMode):
    """Sees the torch functions that a module's forward calls, and takes the row of those that are attention."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: list[tuple[Tensor, int]] = []
        self.formed: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in FUSED:
            query = args[0] if args else kwargs["query"]
            queries = query.shape[-2 if func is F.scaled_dot_product_attention else 0]
            self.fused.append((first_row(FUSED[func](*args, **kwargs, queries=1)), queries))
        output = func(*args, **kwargs)
        if func in SOFTMAX and is_over_keys(output, args, kwargs):
            self.formed.append((first_row(output), output.shape[2]))
        return output


_SLOT = "_transmix_reading"
_INNER = "_transmix_inner_forward"


def _read_class_attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    reading = module.__dict__[_SLOT]
    if reading is None or not (reading.training if module.training else reading.eval) or _in_backward():
        return _inner_forward(module, *args, **kwargs)
    watch = _Watch()
    with watch:
        output = _inner_forward(module, *args, **kwargs)
    rows = watch.fused or watch.formed
    if len(rows) != 1:
        raise AttentionError(
            f"expected {reading.name!r} ({type(module).__name__}) to compute attention once, with torch's "
            f"scaled_dot_product_attention or a softmax over (batch, heads, queries, keys), but it did "
            f"{len(rows)} times. "
            + (
                "Attention of another kind, or inside an extension, cannot be read: point at another module"
                if not rows
                else "Point at the one module that attends for the class token"
            )
        )
    if reading.tells_grid:
        reading.grid = grid_of(module, args[0], output)
    reading.record(*rows[0], module)
    return output


def _note_grid(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    reading = module.__dict__[_SLOT]
    output = _inner_forward(module, *args, **kwargs)
    if reading is not None and not _in_backward():
        reading.grid = grid_of(module, args[0] if args else next(iter(kwargs.values())), output)
    return output


def _note_image_size(module: nn.Module, images: Tensor) -> Any:
    reading = module.__dict__[_SLOT]
    if reading is not None and not _in_backward():
        reading.image_size = (images.shape[-2], images.shape[-1])
    return _inner_forward(module, images)


# Pickle stores a bound method by its name: under this one it finds the module's own forward again.
_read_class_attention.__name__ = _note_grid.__name__ = _note_image_size.__name__ = "forward"


def _attach(module: nn.Module, wrapper: Any, reading: _Reading) -> None:
    """Put `wrapper` in front of one module's forward.

    A bound method in the instance's dict: a deep copy binds it to the copied module, torch.compile traces through it
    and notices when it comes or goes, and state_dict and hooks are untouched.
    """
    if module.__dict__.get(_SLOT) is not None:
        raise AttentionError(
            f"{reading.name!r} is being read by another AttentionReader: use that one, or detach it first"
        )
    if _SLOT in module.__dict__:  # left over from the model that this is a copy of
        _detach(module)
    if "forward" in module.__dict__:
        module.__dict__[_INNER] = module.__dict__["forward"]
    module.__dict__[_SLOT] = reading
    module.__dict__["forward"] = types.MethodType(wrapper, module)


def _detach(module: nn.Module) -> None:
    del module.__dict__["forward"], module.__dict__[_SLOT]
    if _INNER in module.__dict__:
        module.__dict__["forward"] = module.__dict__.pop(_INNER)


def _inner_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if _INNER in module.__dict__:
        return module.__dict__[_INNER](*args, **kwargs)
    return type(module).forward(module, *args, **kwargs)


def _in_backward() -> bool:
    """Whether this is the second forward that gradient checkpointing runs during backward."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _allow_checkpointing_under_compile(model: nn.Module) -> None:
    # Without this, torch.compile refuses to trace a record made inside a checkpointed region. It then makes the record
    # in forward and not again in backward: what is wanted.
    if any(
        getattr(module, flag, False)
        for module in model.modules()
        for flag in ("grad_checkpointing", "gradient_checkpointing")
    ):
        config = importlib.import_module("torch._dynamo.config")
        config.skip_fwd_side_effects_in_bwd_under_checkpoint = True  # type: ignore[attr-defined]
