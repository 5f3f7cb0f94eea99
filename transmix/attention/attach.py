"""Stand in front of the forward of single modules, without touching model code, weights or hooks.

A `Place` is a callable in the instance's own dict under "forward". torch.compile traces through it and notices when it
comes or goes, state_dict and hooks stay as they are, and a copy of the module gets its own place.
"""

import importlib
import inspect
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transmix.attention.error import AttentionError


class Row(NamedTuple):
    """The record of one forward of the module that is read.

    Attributes:
        row: (B, P) float32, the class token's softmax over the patches.
        grid: (h, w) of the patches, if the model gives it.
        images: what the model was called with (an alias, no copy), if that was one tensor.
        cut: the input of the module that cuts patches (an alias too).
        covers: (height, width) of the area of `cut` that the patches cover, in pixels.
        prefix: number of tokens before the patches.
        by_patches: (B, P) float32, attention from the patches: mean over heads and patch queries. None unless the
            reader was asked for it, or if the class token is the only query.
        blocks: the attention calls of all blocks, first to last; () unless the reader was asked for them.
        tokens: (B, P, D), patch tokens after the last norm, with gradient; None unless the reader was asked for them.
    """

    row: Tensor
    grid: tuple[int, int] | None
    images: Tensor | None
    cut: Tensor | None
    covers: tuple[int, int] | None
    prefix: int = 1
    by_patches: Tensor | None = None
    blocks: tuple = ()
    tokens: Tensor | None = None


@dataclass(eq=False)
class Reading:
    """State that the hooks of one reader share: settings, switches, and the rows that forwards left.

    Attributes:
        name: dotted name of the module that is read.
        prefix_tokens: tokens before the patches, if known.
        prefix_given: whether the user gave their number.
        given_grid: (h, w) of the patches, if the user gave it.
        tells_grid: whether the input of the module has spatial axes.
        training: read in training mode.
        eval: read in eval mode.
        patches: in eval mode, also read the attention from the patches.
        every_block: also record the attention of every block.
        active: whether a reader is attached.
    """

    name: str
    prefix_tokens: int | None
    prefix_given: bool
    given_grid: tuple[int, int] | None
    tells_grid: bool
    training: bool
    eval: bool
    patches: bool = False
    every_block: bool = False
    # Only a reader sets this: in a deep copy of the model alone (EMA) nobody reads, and rows would pile up.
    active: bool = False

    def __post_init__(self) -> None:
        # Traced code appends to `rows` and stores attributes. It reads none that changes from step to step: dynamo
        # guards on every attribute that it reads, and would compile again for each new value.
        self.forget()
        self.places: list[weakref.ref[Place]] = []

    def forget(self) -> None:
        """Drop all rows and what the running forward has noted."""
        self.rows: list[Row] = []
        self.images: Tensor | None = None
        self.cut: Tensor | None = None
        self.grid: tuple[int, int] | None = None
        self.covers: tuple[int, int] | None = None
        self.blocks: list[Any] = []
        self.ran_unread = False

    def standing(self) -> "list[Place]":
        """Return the places whose modules still exist."""
        return [place for ref in self.places if (place := ref()) is not None]

    def __getstate__(self) -> dict[str, Any]:
        # Rows and images belong to this process and this model. The copied modules bring places of their own, which
        # enter themselves (`Place.__setstate__`).
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "active"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


class Place:
    """Replace a module's forward by `work` around it: work(place, *args, **kwargs) -> output."""

    def __init__(self, module: nn.Module, reading: Reading, work: Callable[..., Any]):
        self.module, self.reading, self.work = module, reading, work
        self.inner = module.__dict__.get("forward")  # another library may have replaced forward already: call that
        reading.places.append(weakref.ref(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward, with the work around it while a reader is at work."""
        if not self.reading.active or in_backward():
            return self.run(*args, **kwargs)
        return self.work(self, *args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's original forward."""
        if self.inner is not None:
            return self.inner(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        # Hugging Face's Trainer drops the columns of a batch that are no argument of the model's forward.
        return inspect.signature(self.inner or self.module.__class__.forward.__get__(self.module))

    @property
    def __code__(self) -> types.CodeType:
        return type(self).__call__.__code__  # torch.export reads the file and line of a forward from its code object

    def remove(self) -> None:
        """Restore the module's forward; if another library wrapped it since, stay inside and do nothing."""
        if self.module.__dict__.get("forward") is self:
            if self.inner is None:
                del self.module.__dict__["forward"]
            else:
                self.module.__dict__["forward"] = self.inner

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reading.places.append(weakref.ref(self))


def attach(module: nn.Module, reading: Reading, work: Callable[..., Any]) -> None:
    """Put a place in front of a module's forward.

    Raises:
        AttentionError: the module already has a reader.
    """
    standing = module.__dict__.get("forward")
    if isinstance(standing, Place):
        if standing.reading.active:
            remedy = "use that one, or detach it first"
            raise AttentionError(f"{reading.name!r} is being read by another AttentionReader: {remedy}")
        standing.remove()  # a leftover: this module is a copy of one that is read
    # Into the instance's dict, not as a hook or attribute: torch.compile silently ignores hooks put on after it
    # compiled, but guards on "forward", and nn.Module.__setattr__ would register nothing of it.
    module.__dict__["forward"] = Place(module, reading, work)


@contextmanager
def readers_paused(model: nn.Module) -> Iterator[None]:
    """Pause the readers of a model, so that attention computed by our own code is not recorded."""
    places = [place for module in model.modules() if isinstance(place := module.__dict__.get("forward"), Place)]
    active = [(place.reading, place.reading.active) for place in places]
    for reading, _ in active:
        reading.active = False
    try:
        yield
    finally:
        for reading, was in active:
            reading.active = was


def in_backward() -> bool:
    """Whether this is the second forward, which gradient checkpointing runs during backward: its row is dropped."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def allow_checkpointing_under_compile(model: nn.Module) -> None:
    """Let torch.compile trace a row that is recorded inside a checkpointed region."""
    # Dynamo refuses side effects (appending a row) in a region that backward runs again. With this flag it keeps them
    # in forward and drops them in backward, where a second row of the same images would be wrong anyway.
    flags = ("grad_checkpointing", "gradient_checkpointing", "_checkpoint_wrapped_module")
    if any(getattr(module, flag, False) for module in model.modules() for flag in flags):
        config = importlib.import_module("torch._dynamo.config")
        config.skip_fwd_side_effects_in_bwd_under_checkpoint = True  # type: ignore[attr-defined]
