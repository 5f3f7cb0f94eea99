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
        tensors: as they are in it.
        entry: which part of a training checkpoint they are; empty if the file is nothing else.
        about: what a file of ours says of itself.
    """

    path: Path
    tensors: dict[str, Tensor]
    entry: str = ""
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What became of the weights that a model started from.

    Attributes:
        source: the file, or the name of the published weights.
        loaded: how many of the model's tensors they gave.
        tensors: how many the model has.
        new: names of the others, which stay as they were initialised.
        unused: names in the file that the model has no place for.
        notes: what was done to fit them.
    """

    source: str
    loaded: int
    tensors: int
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: how much was loaded, what is new, what was not used."""
        parts = [f"started from {self.source}: loaded {self.loaded} of {self.tensors} tensors"]
        parts += [f"new: {listed(self.new)}"] if self.new else []
        parts += [f"not used: {listed(self.unused)}"] if self.unused else []
        return "; ".join([*parts, *self.notes])


def read_weights(path: Path) -> FileWeights:
    """Read a weights file: .safetensors, or what torch saved, read with weights_only.

    Raises:
        RecipeError: it cannot be read, or holds no tensors by name.
    """
    if path.suffix in PICKLES:
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):  # the settings in checkpoints of timm and DeiT
                found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of the file, of the archive, of the pickle: each has its own
            objects = "it holds Python objects, which are never loaded"
            reason = objects if isinstance(error, pickle.UnpicklingError) else one_line(error)
            remedy = "It must hold tensors alone: torch.save(model.state_dict(), FILE), or safetensors"
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
    """Return the tensors of a checkpoint by name, and the entry they are in."""
    if not isinstance(found, Mapping):
        raise RecipeError(f"{path} holds a {type(found).__name__}, not tensors by name: torch.save(model.state_dict())")
    for name in ENTRIES:
        if isinstance(found.get(name), Mapping):
            return _tensors_of(found[name], path, f"{entry}.{name}".lstrip("."))
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RecipeError(f"{path} holds no tensors by name; its entries are {listed(map(str, found))}")
    return tensors, entry


def unwrap(weights: FileWeights, wanted: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Take off names what wrapped the model when it was saved.

    Args:
        weights: of a file.
        wanted: names of the model's own tensors.

    Returns:
        Tensors by the model's names where one prefix before them gives most of these, else by the file's (timm knows
        other formats); and that prefix.

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
        raise RecipeError(f"{weights.path} holds several models that fit ({fit}); save the one that you want alone")
    prefix = "" if "" in preferred else preferred[0]
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}, prefix


def head_size(weights: Mapping[str, Tensor]) -> int | None:
    """Return how many outputs the head among a model's weights has, wrapped or not; None if there is no head."""
    for head in ("head", "head.fc", "fc", "classifier"):
        found = [name for name in weights if f".{WRAPPERS.sub('', name)}".endswith(f".{head}.weight")]
        found = [name for name in found if weights[name].ndim == 2]
        if found:
            return len(weights[min(found, key=lambda name: name.count("."))])
    return None


@dataclass
class Loading:
    """What timm's loading of weights found; filled while `watched` is on.

    Attributes:
        begun: whether the model was there and its weights were come to.
        missing: names of the model's tensors that the weights did not give; None if timm did not say.
        unused: names that the model has no place for.
        resized: names of tensors that had another shape in a file.
        head: tensors of a class-attention head, which timm does not know.
        notes: what was done to fit them.
    """

    begun: bool = False
    missing: list[str] | None = None
    unused: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    head: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def watched(weights: FileWeights | None, classes: Collection[str] | None) -> Iterator[Loading]:
    """Unwrap a file's weights as timm comes to load them, and see what it makes of them, or of published ones.

    Args:
        weights: of the file; None: timm fetches its own.
        classes: of the data; the head of a file of ours for others is left out. None: not known.
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
    """Return how many classes a file's head is for: timm takes it if the model has as many, so -1 for other classes."""
    theirs = weights.about.get("classes")
    if classes is None or theirs is None or list(theirs) == list(classes):
        return head_size(tensors) or 0
    if len(theirs) == len(classes):
        found.notes.append("its head is for other classes and is made anew")
    return -1


def remedy(names: Collection[str]) -> str:
    """Say what kind of file has tensors of these names, which fit no model, and what to give instead."""
    if any("lora_" in name for name in names):
        return ". It holds LoRA adapters: merge them first (merge_and_unload), and save that model"
    if all("|" in name for name in names):
        return ". It holds an optimizer's state: give model.safetensors or ema.safetensors, beside it"
    if any("embeddings." in name or "attention.attention." in name for name in names):
        return ". Its names are those of Hugging Face Transformers: give timm's weights of that model"
    return ". Give weights of this model in timm's names, or name the model that they are of with --model"
