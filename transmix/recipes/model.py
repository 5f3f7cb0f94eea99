"""Settings of the model: section `model` of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

Scalar = bool | int | float | str
Option = Scalar | tuple[Scalar, ...]
"""A value of settings that are not known beforehand: arguments of timm, of a mixing method, of a label rule."""


@dataclass(frozen=True)
class Model:
    """The timm model, and how it runs."""

    model: str = "deit_small_patch16_224"
    """Name of a timm model."""
    model_options: dict[str, Option] = field(default_factory=dict)
    """More arguments for timm.create_model: patch_size, embed_dim, depth, depths=[2,2], ...
    On the command line they are added to the recipe's; NAME= removes one of the recipe's."""
    class_attention: bool = False
    """Replace the average pooling by a class-attention head, in models without a class token (Swin, PVT, ...)."""
    drop_path: float = 0.0
    """Stochastic depth: probability of dropping a block, rising linearly to this at the last block."""
    pretrained: bool = False
    """Start from the model's own published weights."""
    init: str | None = None
    """Start from the weights of another timm model (by name), of a file (.safetensors, or .pth and similar, read with
    weights_only) or of a run folder. The head is re-initialised if the classes differ; position embeddings are
    resized. A report is printed and saved in start.json. Weights that do not fit are an error."""
    linear_init: Literal["timm", "xavier"] = "timm"
    """Initialisation of linear layers: 'timm': the model's own, usually a standard deviation of 0.02 for any width;
    'xavier': scaled by width; models with only 64 channels need it, else they stay at chance for epochs.
    Weights loaded by pretrained or init are not changed."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Autocast type."""
    compile: bool = False
    """torch.compile the model."""
    channels_last: bool = False
    """Keep images in channels-last memory format."""
    grad_checkpointing: bool = False
    """Gradient checkpointing: use less memory and more compute."""
