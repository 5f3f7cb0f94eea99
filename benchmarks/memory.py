"""How much memory a piece of code holds at most, on a CPU by counting and on a GPU as its allocator says."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that torch's operators make while this is on, and that are still alive.

    Outputs, temporaries between operators, gradients and what autograd keeps for backward are seen, each storage once
    and until it is freed; views and in-place results add nothing. Not seen: what was there before, scratch memory
    inside an operator's kernel, and compiled code.

    Attributes:
        live: bytes now.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._note(tensor.untyped_storage(), counts=False)  # there before, unless an operator seen here made it
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self._note(tensor.untyped_storage(), counts=True)
        self.peak = max(self.peak, self.live)
        return output

    def _note(self, storage: torch.UntypedStorage, counts: bool) -> None:
        number = id(storage)  # the same object for as long as the storage lives
        if number in self._known:
            return
        size = storage.nbytes() if counts else 0
        self.live += size

        def freed(_: weakref.ref) -> None:
            del self._known[number]
            self.live -= size

        self._known[number] = weakref.ref(storage, freed)


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Return the most bytes that `run` holds at once, beyond what was there before.

    On a CPU by `LiveBytes`; on a GPU the difference of `torch.cuda.max_memory_allocated` and what was allocated.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as counted:
        run()
    return counted.peak


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
