"""Stand in front of the forward of single modules, without touching model code, weights or hooks.

A `Place` is a callable in the instance's own dict under "forward". torch.compile traces through it and notices when it
comes or goes, state_dict and hooks stay as they are, and a copy of the module gets a place of its own.
"""

import importlib
import inspect
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transmix.attention.error import AttentionError


class Row(NamedTuple):
    """What one forward of the read module left.

    Attributes:
        row: (B, P) float32, the class token's softmax over the patches.
        grid: (h, w) of the patches, where the model told.
        images: what the model was called with (an alias, no copy), if that was one tensor.
        cut: what the module that cuts patches was given, likewise.
        covers: (height, width) in pixels of `cut` that the patches cover.
    """

    row: Tensor
    grid: tuple[int, int] | None
    images: Tensor | None
    cut: Tensor | None
    covers: tuple[int, int] | None


class Reading:
    """What the places of one reader share: switches, and the rows that forwards left.

    Traced code appends to `rows` and stores attributes; it reads none that changes from step to step, since
    torch.compile would compile again for each value.
    """

    def __init__(
        self,
        name: str,
        prefix_tokens: int | None,
        prefix_given: bool,
        given_grid: tuple[int, int] | None,
        tells_grid: bool,
    ):
        self.name = name
        self.prefix_tokens, self.prefix_given = prefix_tokens, prefix_given
        self.given_grid = given_grid
        self.tells_grid = tells_grid  # the module that is read is given features with spatial axes
        self.active = False  # only a reader that is at work makes it so: a copied model (EMA) alone is not read
        self.training = self.eval = False
        self.forget()
        self.places: list[weakref.ref[Place]] = []

    def forget(self) -> None:
        """Drop all rows and what the running forward has noted."""
        self.rows: list[Row] = []
        self.images: Tensor | None = None
        self.cut: Tensor | None = None
        self.grid: tuple[int, int] | None = None
        self.covers: tuple[int, int] | None = None
        self.ran_unread = False

    def modules(self) -> "list[tuple[nn.Module, Place]]":
        """Return the modules that are still there, with their places."""
        places = [place for ref in self.places if (place := ref()) is not None]
        return [(place.module, place) for place in places]

    def __getstate__(self) -> dict[str, Any]:
        # Rows and images belong to this process and this model; places of a copy come with the copied modules.
        kept = ("name", "prefix_tokens", "prefix_given", "given_grid", "tells_grid", "training", "eval")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.active, self.places = False, []
        self.forget()


class Place:
    """Stands in for a module's forward and does `work` around it: work(place, *args, **kwargs) -> output."""

    def __init__(self, module: nn.Module, reading: Reading, work: Callable[..., Any]):
        self.module, self.reading, self.work = module, reading, work
        self.inner = module.__dict__.get("forward")  # somebody's own, kept
        reading.places.append(weakref.ref(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward, with the work around it while a reader is at work."""
        if not self.reading.active or in_backward():
            return self.run(*args, **kwargs)
        return self.work(self, *args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward that this stands in for."""
        if self.inner is not None:
            return self.inner(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        # Trainers choose a batch's columns by the names of a forward's arguments.
        return inspect.signature(self.inner or self.module.__class__.forward.__get__(self.module))

    @property
    def __code__(self) -> types.CodeType:
        return type(self).__call__.__code__  # torch.export looks at where a forward is written down

    def remove(self) -> None:
        """Leave the module as it was; under somebody's wrapper that came later, do nothing from now on."""
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
        AttentionError: another reader is at work there.
    """
    standing = module.__dict__.get("forward")
    if isinstance(standing, Place):
        if standing.reading.active:
            raise AttentionError(
                f"{reading.name!r} is being read by another AttentionReader: use that one, or detach it first"
            )
        standing.remove()  # left over from the model that this is a copy of
    module.__dict__["forward"] = Place(module, reading, work)


@contextmanager
def readers_paused(model: nn.Module) -> Iterator[None]:
    """Keep readers of a model from reading meanwhile: what they compute is not the model's."""
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
    """Whether this is the second forward that gradient checkpointing runs during backward."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def allow_checkpointing_under_compile(model: nn.Module) -> None:
    """Let torch.compile trace a record made inside a checkpointed region.

    Without this it refuses to. With it, it makes the record in forward and not again in backward: what is wanted.
    """
    flags = ("grad_checkpointing", "gradient_checkpointing", "_checkpoint_wrapped_module")
    if any(getattr(module, flag, False) for module in model.modules() for flag in flags):
        config = importlib.import_module("torch._dynamo.config")
        config.skip_fwd_side_effects_in_bwd_under_checkpoint = True  # type: ignore[attr-defined]
