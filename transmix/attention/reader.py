"""The attention reader: hands over what the class token saw in the last training forward.

How: the forward of one module (the last attention of the class token) runs under a mode that sees every torch function
called in it. When that is fused attention, the mode computes the one row that is wanted from the same query and key;
fused attention itself runs as it would have. The model's code, weights, hooks and outputs stay as they are.
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
from transmix.attention.row import row_of_multi_head_attention, row_of_sdpa

ROWS = {
    F.scaled_dot_product_attention: row_of_sdpa,
    F.multi_head_attention_forward: row_of_multi_head_attention,
}


class AttentionReader:
    """Reads the class token's attention over the patches, with fused attention left on.

    Works in eager mode and under torch.compile(fullgraph=True), autocast, gradient checkpointing and DDP, attached
    before or after those. Costs nothing in eval mode unless `eval` is set. A deep copy of the model (EMA) is not read.

    Args:
        model: a timm ViT, DeiT, CaiT, XCiT, EVA, DINOv2, DINOv3 or kin; or any model, with `module`.
        module: the module (or its dotted name) that attends for the class token, if not the model's last.
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
        training: bool = True,
        eval: bool = False,
    ):
        bare = unwrap(model)
        self._found = find_class_attention(bare, module)
        self._reading = _Reading(self._found, training, eval)
        _attach(self._found.module, _read_class_attention, self._reading)
        if self._found.patch_embed is not None:
            try:
                _attach(self._found.patch_embed, _note_image_size, self._reading)
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
    def grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches in `attention`; None where the model does not say."""
        return self._reading.grid

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
        for module in (self._found.module, self._found.patch_embed):
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
        self.training = training
        self.eval = eval
        self.grid: tuple[int, int] | None = None
        self.row: Tensor | None = None

    def __reduce__(self) -> tuple:
        return _no_reading, ()  # a deep copy (EMA) or a pickle of the model belongs to no reader

    def record(self, row: Tensor, queries: int, module: nn.Module) -> None:
        """Keep the patches' columns of a softmax row (B, S)."""
        tokens = row.shape[1]
        if self.grid is not None:
            patches = self.grid[0] * self.grid[1]
        elif self.prefix_tokens is not None:
            patches = tokens - self.prefix_tokens
        else:
            patches = tokens - 1
        prefix = tokens - patches
        if patches < 1 or prefix < 0 or (queries > 1 and prefix < 1):
            raise AttentionError(
                f"{self.name!r} ({type(module).__name__}) attends over {tokens} tokens, which cannot be {patches} "
                f"patches after a class token (grid {self.grid}): patch dropout, or not the class token's attention"
            )
        self.row = row[:, prefix:]


def _no_reading() -> None:
    return None


class _Watch(TorchFunctionMode):
    """Sees the torch functions that a module's forward calls, and computes the row when one is attention."""

    def __init__(self) -> None:
        super().__init__()
        self.row: Tensor | None = None
        self.queries = 0
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in ROWS:
            self.row = ROWS[func](*args, **kwargs)
            query = args[0] if args else kwargs["query"]
            self.queries = query.shape[-2 if func is F.scaled_dot_product_attention else 0]
            self.calls += 1
        return func(*args, **kwargs)


_SLOT = "_transmix_reading"
_INNER = "_transmix_inner_forward"


def _read_class_attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    reading = module.__dict__[_SLOT]
    if reading is None or not (reading.training if module.training else reading.eval) or _in_backward():
        return _inner_forward(module, *args, **kwargs)
    watch = _Watch()
    with watch:
        output = _inner_forward(module, *args, **kwargs)
    if watch.calls != 1:
        raise AttentionError(
            f"expected {reading.name!r} ({type(module).__name__}) to call fused attention "
            f"(scaled_dot_product_attention) once, but it did {watch.calls} times. "
            + (
                "Is fused attention off (timm: TIMM_FUSED_ATTN, set_fused_attn)? Turn it on, or point at another module"
                if watch.calls == 0
                else "Point at the one module that attends for the class token"
            )
        )
    reading.record(watch.row, watch.queries, module)
    return output


def _note_image_size(module: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Any:
    reading = module.__dict__[_SLOT]
    if reading is not None and not _in_backward():
        (patch_height, patch_width), (height, width) = _pair(module.patch_size), images.shape[-2:]
        padded = getattr(module, "dynamic_img_pad", False)
        reading.grid = (
            (-(-height // patch_height), -(-width // patch_width))
            if padded
            else (height // patch_height, width // patch_width)
        )
    return _inner_forward(module, images, *args, **kwargs)


# Pickle stores a bound method by its name: under this one it finds the module's own forward again.
_read_class_attention.__name__ = _note_image_size.__name__ = "forward"


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


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
