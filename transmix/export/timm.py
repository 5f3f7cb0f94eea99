"""timm's own layout: model.safetensors and config.json, which timm and Hugging Face Transformers load directly."""

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from transmix.export.check import check_same
from transmix.models.build import takes_image_size
from transmix.models.loaded import CONFIG, WEIGHTS, LoadedModel, load_model


def write_timm(folder: Path, loaded: LoadedModel) -> None:
    """Write both files, load them again and compare.

    timm cannot build a model with our class-attention head: its config has the key "class_attention", and a
    "model_type" unknown to Transformers, which would otherwise drop the head with only a warning.

    Raises:
        ExportError: the logits differ from the run's.
    """
    (folder / CONFIG).write_text(json.dumps(timm_config(loaded), indent=2))
    weights = {name: tensor.contiguous().clone() for name, tensor in loaded.model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, loaded.metadata | {"format": "pt", "weights": loaded.weights})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody but the owner read
    check_same(loaded, lambda: load_model(folder).model, "transmix")
    if not loaded.settings.class_attention:
        check_same(loaded, lambda: timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), "timm")


def timm_config(loaded: LoadedModel) -> dict[str, Any]:
    """Return what timm writes for the Hugging Face hub: how to build the model, and how to make its input.

    Example:
        >>> timm_config(loaded)["model_args"]  # doctest: +SKIP
        {'patch_size': 8, 'embed_dim': 64, 'img_size': 32}
    """
    model: Any = loaded.model
    settings, image, classes = loaded.settings, loaded.preprocessing.as_json(), list(loaded.classes or ())
    sized = {"img_size": loaded.preprocessing.size} if takes_image_size(settings.model) else {}
    known = {name: model.pretrained_cfg.get(name) for name in ("fixed_input_size", "first_conv", "classifier")}
    config = {
        "architecture": settings.model.split(".")[0],
        "num_classes": len(classes),
        "num_features": model.num_features,
        **({"global_pool": model.global_pool} if isinstance(getattr(model, "global_pool", None), str) else {}),
        "label_names": classes,
        "model_args": settings.model_options | sized,
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [3, image["image_size"], image["image_size"]],
            "interpolation": image["interpolation"],
            "crop_pct": image["crop_pct"],
            "crop_mode": "center",
            "mean": image["mean"],
            "std": image["std"],
            **{name: value for name, value in known.items() if value is not None},
        },
        **{name: image[name] for name in ("grey_range",) if name in image},
    }
    if loaded.settings.class_attention:
        config |= {
            "class_attention": {"load_with": "transmix.models.loaded.load_model"},
            "model_type": "transmix_class_attention",
        }
    return config
