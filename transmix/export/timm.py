"""timm's own layout: model.safetensors and config.json, which timm and Hugging Face Transformers open as they are."""

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from transmix.export.check import check_same
from transmix.export.load import load_export
from transmix.models.build import takes_image_size
from transmix.runs.trained import Trained, preprocessing

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def write_timm(folder: Path, trained: Trained) -> None:
    """Write the two files, open them again and compare.

    A model whose pooling is our class-attention head is not one that timm can build: its config has the key
    "class_attention", and a "model_type" that Transformers does not know, lest it leave the head out with a warning.

    Raises:
        ExportError: what was written does not give the run's logits.
    """
    (folder / CONFIG).write_text(json.dumps(timm_config(trained), indent=2))
    weights = {name: tensor.contiguous().clone() for name, tensor in trained.model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, trained.metadata | {"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody but the owner read
    check_same(trained, lambda: load_export(folder), "transmix")
    if not trained.class_attention:
        check_same(trained, lambda: timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), "timm")


def timm_config(trained: Trained) -> dict[str, Any]:
    """Return what timm writes for the Hugging Face hub: how to build the model, and how to make its input.

    Example:
        >>> timm_config(trained)["model_args"]  # doctest: +SKIP
        {'patch_size': 8, 'embed_dim': 64, 'img_size': 32}
    """
    model: Any = trained.model
    settings, image = trained.recipe.model, preprocessing(trained)
    known = {name: model.pretrained_cfg.get(name) for name in ("fixed_input_size", "first_conv", "classifier")}
    config = {
        "architecture": settings.model.split(".")[0],
        "num_classes": len(trained.classes),
        "num_features": model.num_features,
        "global_pool": getattr(model, "global_pool", None),
        "label_names": list(trained.classes),
        "model_args": settings.model_options | _image_size(trained),
        "pretrained_cfg": {
            "num_classes": len(trained.classes),
            "input_size": [3, image["image_size"], image["image_size"]],
            "interpolation": image["interpolation"],
            "crop_pct": image["crop_pct"],
            "crop_mode": "center",
            "mean": image["mean"],
            "std": image["std"],
            **{name: value for name, value in known.items() if value is not None},
        },
    }
    if "grey_range" in image:
        config["grey_range"] = image["grey_range"]
    if not isinstance(config["global_pool"], str):
        del config["global_pool"]
    if trained.class_attention:
        config |= {
            "class_attention": {"load_with": "transmix.export.load.load_export"},
            "model_type": "transmix_class_attention",
        }
    return config


def _image_size(trained: Trained) -> dict[str, int]:
    return {"img_size": trained.recipe.data.image_size} if takes_image_size(trained.recipe.model.model) else {}
