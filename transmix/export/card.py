"""The README.md of an exported folder: what the model is, how well it does, how to load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transmix import __version__
from transmix.export import snippets
from transmix.export.error import ExportError
from transmix.metrics import METRICS, TRAINING_METRICS, in_log
from transmix.models.loaded import LoadedModel
from transmix.recipes.mixing import title
from transmix.training.optimizer import peak_lr

SHOWN_CLASSES = 50
"""More classes than these are counted, not listed."""


def card(loaded: LoadedModel, formats: Sequence[str]) -> str:
    """Return the model card as Markdown, with the header that the Hugging Face hub reads."""
    about, classes = loaded.preprocessing.as_json(), loaded.classes or ()
    parts = [
        _header(loaded, formats),
        f"# {loaded.settings.model}, {len(classes)} classes",
        _training(loaded),
        "## Scores",
        _scores(loaded),
        "## Classes",
        _classes(classes, formats),
        "## Input",
        f"RGB images, upright: the shorter side resized to {about['resize']} pixels ({about['interpolation']}), the "
        f"centre of {about['image_size']} x {about['image_size']} pixels cut out, then `(x / 255 - mean) / std` with "
        f"mean {about['mean']} and std {about['std']}. This is what the scores were measured with.",
        *_grey(about),
        "## Use",
        "In this folder, for an image.jpg of yours:",
        *(f"{title}\n\n```python\n{code}\n```" for title, code in _snippets(loaded, formats)),
    ]
    return "\n\n".join(parts) + "\n"


def _header(loaded: LoadedModel, formats: Sequence[str]) -> str:
    library = "onnx" if set(formats) == {"onnx"} else "transmix" if loaded.settings.class_attention else "timm"
    lines = ["---", f"library_name: {library}", "pipeline_tag: image-classification", "tags:", "- transmix", "---"]
    return "\n".join(lines)


def _training(loaded: LoadedModel) -> str:
    recipe, chosen = loaded.recipe, loaded.chosen
    if recipe is None or chosen is None:
        raise ExportError(f"{loaded.target} is not a run; only a run has a model card")
    model, optimization = recipe.model, recipe.optimization
    options = "".join(f", {name}={value}" for name, value in model.model_options.items())
    start = f"the weights {Path(model.init).name}" if model.init else "its published weights"
    start = start if model.init or model.pretrained else "random weights"
    average = f"; EMA decay {optimization.ema_decay}" if chosen.name == "ema" else ""
    head = " with a class-attention head in place of its pooling" if loaded.settings.class_attention else ""
    size = recipe.data.image_size
    count = sum(weight.numel() for weight in loaded.model.parameters())
    epochs = optimization.epochs + optimization.cooldown_epochs
    mixing = title(recipe.mixing.mix, recipe.mixing.labels)
    return "\n".join(
        [
            f"- model: timm's `{model.model}`{options}{head}; {count / 1e6:.2f} M weights, started from {start}",
            f"- data: {Path(recipe.data.data or '').name}; images of {size} x {size} pixels",
            f"- training: {epochs} epochs planned, batches of {optimization.batch_size}, "
            f"{TRAINING_METRICS['lr'].label} {peak_lr(optimization):g}, mixing `{mixing}`, seed {recipe.run.seed}",
            f"- weights: {loaded.weights}{average}",
            f"- written by transmix {__version__}",
        ]
    )


def _scores(loaded: LoadedModel) -> str:
    scores = loaded.chosen.scores if loaded.chosen else {}
    if not scores:
        return "The run was not evaluated at this step."
    many = len(loaded.classes or ()) > 5
    shown = [name for name in METRICS if in_log(name) in scores and (name != "top5" or many)]
    written = [f"{METRICS[name].label} {METRICS[name].write(scores[in_log(name)])}" for name in shown]
    return f"On the validation split after epoch {scores['epoch']}, of these weights: {', '.join(written)}."


def _classes(classes: Sequence[str], formats: Sequence[str]) -> str:
    where = "`label_names` in config.json" if set(formats) != {"onnx"} else "`classes` in the metadata of model.onnx"
    if len(classes) > SHOWN_CLASSES:
        return f"{len(classes)}, in the order of the logits: {where}."
    return "In the order of the logits: " + ", ".join(f"`{name}`" for name in classes) + f" ({where})."


def _grey(about: dict[str, Any]) -> list[str]:
    if "grey_range" not in about:
        return []
    low, high = about["grey_range"]
    return [
        f"Grey images of more than 8 bits come first to 8 bits: `round(255 * clip((v - {low}) / ({high} - {low}), 0, "
        f"1))`, for every image alike: {low} is black and {high} white (`grey_range`)."
    ]


def _snippets(loaded: LoadedModel, formats: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    if {"timm", "huggingface"} & set(formats):
        found += [] if loaded.settings.class_attention else [("timm:", snippets.TIMM)]
        found += [("transmix:", snippets.TRANSMIX)]
    if "huggingface" in formats:
        found += [("Hugging Face Transformers:", snippets.HUGGINGFACE)]
    if "onnx" in formats:
        found += [("onnxruntime:", snippets.ONNX)]
    grey = loaded.preprocessing.as_json().get("grey_range")
    return [(title, snippets.with_grey_range(code, grey) if grey else code) for title, code in found]
