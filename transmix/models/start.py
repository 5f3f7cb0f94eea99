"""The weights that a model starts from: read from a file, matched to the model, and reported."""

import argparse
import json
import logging
import pickle
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transmix.data.dataset import listing
from transmix.error import RecipeError, one_line
from transmix.runs.checkpoint import read_tensors
from transmix.runs.error import CheckpointError

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Endings of files that torch reads, with its weights_only loading."""

ENTRIES = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model", "module", "net", "network", "student")
"""Entries of training checkpoints that hold weights, the first that is there taken; averages come first, as in timm."""

WRAPPERS = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What torch.compile, checkpointing and FSDP put into names, anywhere."""

PREFERRED = ("teacher", "ema", "base_encoder", "encoder_q")
"""Words in a prefix that decide between several models in one file."""

listed = partial(listing, limit=4)
"""Names in a message, of many the first four and how many more."""


@dataclass(frozen=True)
class FileWeights:
    """Tensors of a weights file by name, and its metadata.

    Attributes:
        path: the file.
        tensors: the tensors, named as in the file.
        entry: entry of a training checkpoint that holds them; empty if the file has only the tensors.
        about: metadata of a file of ours.
    """

    path: Path
    tensors: dict[str, Tensor]
    entry: str = ""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Report of how a model's initial weights were loaded.

    Attributes:
        source: file, or name of the published weights.
        loaded: number of the model's tensors that were loaded.
        tensors: number of the model's tensors.
        new: names of the tensors that were not loaded, and keep their initialisation.
        unused: names in the file that the model does not have.
        notes: changes made so that they fit.
    """

    source: str
    loaded: int
    tensors: int
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: number of loaded tensors, new ones, unused ones."""
        parts = [f"started from {self.source}: loaded {self.loaded} of {self.tensors} tensors"]
        parts += [f"new: {listed(self.new)}"] if self.new else []
        parts += [f"not used: {listed(self.unused)}"] if self.unused else []
        return "; ".join([*parts, *self.notes])


def read_weights(path: Path) -> FileWeights:
    """Read a weights file: .safetensors, or a torch file (read with weights_only).

    Raises:
        RecipeError: it cannot be read, or is not a state dict.
    """
    if path.suffix in PICKLES:
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):  # the settings in checkpoints of timm and DeiT
                found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of the file, of the archive, of the pickle: each has its own
            objects = "it holds Python objects, which are never loaded"
            reason = objects if isinstance(error, pickle.UnpicklingError) else one_line(error)
            remedy = "The file must hold only tensors: torch.save(model.state_dict(), FILE), or safetensors"
            raise RecipeError(f"cannot read weights from {path}: {reason}. {remedy}") from error
        tensors, entry = _tensors_of(found, path)
        return FileWeights(path, tensors, entry)
    try:
        tensors, metadata = read_tensors(path)
        about = json.loads(metadata.get("transmix", "{}"))
    except (CheckpointError, ValueError) as error:
        raise RecipeError(f"cannot read weights from {path}: {error.__cause__ or error}") from error
    return FileWeights(path, tensors, about=about if isinstance(about, dict) else {})


def _tensors_of(found: Any, path: Path, entry: str = "") -> tuple[dict[str, Tensor], str]:
    """Return the state dict in a checkpoint, and the name of its entry."""
    if not isinstance(found, Mapping):
        raise RecipeError(
            f"{path} holds a {type(found).__name__}, not a state dict; use torch.save(model.state_dict())"
        )
    for name in ENTRIES:
        if isinstance(found.get(name), Mapping):
            return _tensors_of(found[name], path, f"{entry}.{name}".lstrip("."))
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RecipeError(f"{path} holds no state dict; its entries are {listed(map(str, found))}")
    return tensors, entry


def unwrap(weights: FileWeights, wanted: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Remove wrapper prefixes (DDP, compile, ...) from tensor names.

    Args:
        weights: weights of a file.
        wanted: names of the model's own tensors.

    Returns:
        Tensors under the model's names if removing one prefix matches most of them, else under the file's names (timm
        knows other formats); and the prefix.

    Raises:
        RecipeError: several models fit.
    """
    tensors = {WRAPPERS.sub("", name): value for name, value in weights.tensors.items()}
    starts = ((name, dot.end()) for name in tensors for dot in re.finditer(r"^|\.", name))
    counts = Counter(name[:start] for name, start in starts if name[start:] in wanted)
    most = max(counts.values(), default=0)
    if 2 * most < len(wanted):
        return tensors, ""
    best = [prefix for prefix, count in counts.items() if count == most]
    preferred = [prefix for prefix in best if any(word in prefix for word in PREFERRED)] or best
    if len(preferred) > 1 and "" not in preferred:
        fit = ", ".join(preferred)
        raise RecipeError(f"{weights.path} holds several models that fit ({fit}); save only the one that you want")
    prefix = "" if "" in preferred else preferred[0]
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}, prefix


def head_size(weights: Mapping[str, Tensor]) -> int | None:
    """Return the number of outputs of the head in a model's weights, with or without prefix; None without head."""
    for head in ("head", "head.fc", "fc", "classifier"):
        found = [name for name in weights if f".{WRAPPERS.sub('', name)}".endswith(f".{head}.weight")]
        found = [name for name in found if weights[name].ndim == 2]
        if found:
            return len(weights[min(found, key=lambda name: name.count("."))])
    return None


@dataclass
class Loading:
    """Record of timm's loading of weights, filled inside `watched`.

    Attributes:
        begun: whether timm created the model and began to load weights.
        missing: names of the model's tensors that are not in the weights; None if unknown.
        unused: names that the model does not have.
        resized: names of tensors with another shape in the file.
        head: tensors of a class-attention head, which timm does not know.
        notes: changes made so that they fit.
    """

    begun: bool = False
    missing: list[str] | None = None
    unused: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    head: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def watched(weights: FileWeights | None, classes: Collection[str] | None) -> Iterator[Loading]:
    """Unwrap a file's weights when timm loads them, and record the result; also for published weights.

    Args:
        weights: weights of the file; None: timm downloads its own.
        classes: class names of the data; if a file of ours has other classes, its head is not loaded. None: unknown.
    """
    from timm.models import _builder

    load, found = _builder.load_pretrained, Loading()

    def load_and_see(model: nn.Module, pretrained_cfg: dict[str, Any], **given: Any) -> None:
        config, wanted, found.begun = dict(pretrained_cfg), model.state_dict(), True
        if weights is not None:
            tensors, prefix = unwrap(weights, wanted)
            found.head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("class_attention.")}
            config |= {"state_dict": tensors, "num_classes": _outputs(weights, tensors, classes, found)}
            found.notes += [f"its entry {weights.entry!r}"] if weights.entry else []
            others = len(weights.tensors) - len(tensors) - len(found.head)
            beside = f", tensors without it not used: {others}" if others else ""
            found.notes += [f"the prefix {prefix!r} taken off{beside}"] if prefix else []
            pretrained_cfg.pop("state_dict", None)  # it is the model's own, and would be copied with it
            found.resized = [name for name in tensors if name in wanted and tensors[name].shape != wanted[name].shape]

        def see(_: nn.Module, keys: Any) -> None:
            found.missing, found.unused = list(keys.missing_keys), list(keys.unexpected_keys)
            found.resized = [name for name in found.resized if name not in keys.missing_keys]

        hook = model.register_load_state_dict_post_hook(see)
        try:
            load(model, pretrained_cfg=config, **{**given, "strict": False})
        finally:
            hook.remove()

    logger = logging.getLogger(_builder.__name__)  # what it says of keys, we say
    level = logger.level
    _builder.load_pretrained = load_and_see
    logger.setLevel(logging.ERROR)
    try:
        yield found
    finally:
        _builder.load_pretrained = load
        logger.setLevel(level)


def _outputs(
    weights: FileWeights, tensors: Mapping[str, Tensor], classes: Collection[str] | None, found: Loading
) -> int:
    """Return the number of classes of a file's head; -1 if its classes differ, so that timm does not load it."""
    theirs = weights.about.get("classes")
    if classes is None or theirs is None or list(theirs) == list(classes):
        return head_size(tensors) or 0
    if len(theirs) == len(classes):
        found.notes.append("its head is for other classes and is made anew")
    return -1


def remedy(names: Collection[str]) -> str:
    """Guess the kind of a file from tensor names that fit no model, and return what to give instead."""
    if any("lora_" in name for name in names):
        return ". It holds LoRA adapters: merge them first (merge_and_unload), and save that model"
    if all("|" in name for name in names):
        return ". It holds an optimizer's state: give model.safetensors or ema.safetensors, beside it"
    if any("embeddings." in name or "attention.attention." in name for name in names):
        return ". Its names are those of Hugging Face Transformers: give timm's weights of that model"
    return ". Give weights of this model in timm's names, or name the model that they are of with --model"
