"""Settings of the model: section `model` of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

Scalar = bool | int | float | str
Option = Scalar | tuple[Scalar, ...]
"""A value of settings that are not known beforehand: arguments of timm, of a mixing method, of a label rule."""


@dataclass(frozen=True)
class Model:
    """The network, from timm, and how it runs."""

    model: str = "deit_small_patch16_224"
    """Name of a timm model."""
    model_options: dict[str, Option] = field(default_factory=dict)
    """More arguments for timm.create_model: patch_size, embed_dim, depth, depths=[2,2], ...
    On the command line they add to the recipe's; NAME= takes one of the recipe's away."""
    class_attention: bool = False
    """Put a class-attention head in place of the average pooling, in models without a class token (Swin, PVT, ...)."""
    drop_path: float = 0.0
    """Stochastic depth: chance of leaving out a block, rising linearly to this at the last block."""
    pretrained: bool = False
    """Start from the model's own published weights."""
    init: str | None = None
    """Start from the weights of another timm model (by name), of a file (.safetensors, or .pth and the like, read with
    weights_only) or of a run's folder. The head is made anew if the classes differ, position embeddings are resized;
    what was loaded is printed and kept in start.json, and weights that do not fit are an error."""
    linear_init: Literal["timm", "xavier"] = "timm"
    """What the weights of linear layers start from: 'timm', as the model draws them, most with a standard deviation of
    0.02 whatever their width; 'xavier', by width, without which models of 64 channels stay at chance for epochs.
    Weights that pretrained or init bring stay as they are."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Autocast type."""
    compile: bool = False
    """torch.compile the model."""
    channels_last: bool = False
    """Keep images in channels-last memory format."""
    grad_checkpointing: bool = False
    """Trade compute for memory."""
