"""An exported folder as a model again."""

import json
import os
from pathlib import Path

from torch import nn

from transmix.export.error import ExportError
from transmix.models.build import build_model
from transmix.models.settings import Model
from transmix.runs.checkpoint import read_tensors


def load_export(folder: str | os.PathLike[str]) -> nn.Module:
    """Load a model that `transmix export` wrote as timm or Hugging Face files, class-attention head or not.

    Args:
        folder: with config.json and model.safetensors.

    Returns:
        The model on the CPU, in evaluation mode: normalised images (B, 3, S, S) to logits (B, K). As on any timm model,
        its `pretrained_cfg` says how to make the input; there "label_names" are the K classes, and "grey_range", if the
        run had one, the values that are black and white in grey images of more than 8 bits.

    Raises:
        ExportError: files that are missing, cannot be read, or do not fit each other.
        RecipeError: a model that the installed timm cannot create.
        CheckpointError: weights that cannot be read.

    Example:
        >>> model = load_export("runs/digits/export")  # doctest: +SKIP
        >>> transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))  # doctest: +SKIP
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        about, options = config["pretrained_cfg"], dict(config.get("model_args", {}))
        architecture, labels, size = config["architecture"], config["label_names"], about["input_size"][-1]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{folder} is not a folder that transmix export --format timm writes: {path.name}: {error!r}"
        ) from error
    options.pop("img_size", None)
    model = build_model(Model(architecture, options, "class_attention" in config), len(labels), size)
    tensors, _ = read_tensors(Path(folder) / "model.safetensors")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ExportError(
            f"the weights in {folder} do not fit its {path.name}: {' '.join(str(error).split())[:300]}"
        ) from error
    kept = {"grey_range": config["grey_range"]} if "grey_range" in config else {}
    model.pretrained_cfg = about | {"architecture": architecture, "label_names": labels} | kept
    return model.eval()
