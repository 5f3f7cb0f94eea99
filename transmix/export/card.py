"""The README.md of an exported folder: what the model is, how well it does, how to load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transmix import __version__
from transmix.export import snippets
from transmix.metrics import METRICS, TRAINING_METRICS, in_log
from transmix.recipes.mixing import title
from transmix.runs.trained import Trained, preprocessing
from transmix.runs.weights import NAMES
from transmix.training.optimizer import peak_lr

SHOWN_CLASSES = 50
"""More classes than these are counted, not listed."""


def card(trained: Trained, formats: Sequence[str]) -> str:
    """Return the model card as Markdown, with the header that the Hugging Face hub reads."""
    model, about = trained.recipe.model, preprocessing(trained)
    parts = [
        _header(trained, formats),
        f"# {model.model}, {len(trained.classes)} classes",
        _training(trained),
        "## Scores",
        _scores(trained),
        "## Classes",
        _classes(trained, formats),
        "## Input",
        f"RGB images, upright: the shorter side resized to {about['resize']} pixels ({about['interpolation']}), the "
        f"centre of {about['image_size']} x {about['image_size']} pixels cut out, then `(x / 255 - mean) / std` with "
        f"mean {about['mean']} and std {about['std']}. This is what the scores were measured with.",
        *_grey(about),
        "## Use",
        "In this folder, for an image.jpg of yours:",
        *(f"{title}\n\n```python\n{code}\n```" for title, code in _snippets(trained, formats)),
    ]
    return "\n\n".join(parts) + "\n"


def _header(trained: Trained, formats: Sequence[str]) -> str:
    library = "onnx" if set(formats) == {"onnx"} else "transmix" if trained.class_attention else "timm"
    lines = ["---", f"library_name: {library}", "pipeline_tag: image-classification", "tags:", "- transmix", "---"]
    return "\n".join(lines)


def _training(trained: Trained) -> str:
    recipe = trained.recipe
    model, optimization = recipe.model, recipe.optimization
    options = "".join(f", {name}={value}" for name, value in model.model_options.items())
    start = f"the weights {Path(model.init).name}" if model.init else "its published weights"
    start = start if model.init or model.pretrained else "random weights"
    which = f"the EMA of the weights (decay {optimization.ema_decay})"
    which = which if trained.weights == "ema" else "the weights as trained, not their EMA"
    head = " with a class-attention head in place of its pooling" if trained.class_attention else ""
    size = recipe.data.image_size
    count = sum(weight.numel() for weight in trained.model.parameters())
    epochs = optimization.epochs + optimization.cooldown_epochs
    mixing = title(recipe.mixing.mix, recipe.mixing.labels)
    return "\n".join(
        [
            f"- model: timm's `{model.model}`{options}{head}; {count / 1e6:.2f} M weights, started from {start}",
            f"- data: {Path(recipe.data.data or '').name}; images of {size} x {size} pixels",
            f"- training: {epochs} epochs planned, batches of {optimization.batch_size}, "
            f"{TRAINING_METRICS['lr'].label} {peak_lr(optimization):g}, mixing `{mixing}`, seed {recipe.run.seed}",
            f"- here: {which}, after optimizer step {trained.step}; {trained.chosen}",
            f"- written by transmix {__version__}",
        ]
    )


def _scores(trained: Trained) -> str:
    scores = trained.scores
    if not scores:
        return "The run was not evaluated at this step."
    shown = [name for name in METRICS if in_log(name) in scores and (name != "top5" or len(trained.classes) > 5)]
    written = [f"{METRICS[name].label} {METRICS[name].write(scores[in_log(name)])}" for name in shown]
    return (
        f"On the validation split after epoch {scores['epoch']}, of the {NAMES[trained.weights]}: {', '.join(written)}."
    )


def _classes(trained: Trained, formats: Sequence[str]) -> str:
    where = "`label_names` in config.json" if set(formats) != {"onnx"} else "`classes` in the metadata of model.onnx"
    if len(trained.classes) > SHOWN_CLASSES:
        return f"{len(trained.classes)}, in the order of the logits: {where}."
    return "In the order of the logits: " + ", ".join(f"`{name}`" for name in trained.classes) + f" ({where})."


def _grey(about: dict[str, Any]) -> list[str]:
    if "grey_range" not in about:
        return []
    low, high = about["grey_range"]
    return [
        f"Grey images of more than 8 bits come first to 8 bits: `round(255 * clip((v - {low}) / ({high} - {low}), 0, "
        f"1))`, for every image alike: {low} is black and {high} white (`grey_range`)."
    ]


def _snippets(trained: Trained, formats: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    if {"timm", "huggingface"} & set(formats):
        found += [] if trained.class_attention else [("timm:", snippets.TIMM)]
        found += [("transmix:", snippets.TRANSMIX)]
    if "huggingface" in formats:
        found += [("Hugging Face Transformers:", snippets.HUGGINGFACE)]
    if "onnx" in formats:
        found += [("onnxruntime:", snippets.ONNX)]
    grey = preprocessing(trained).get("grey_range")
    return [(title, snippets.with_grey_range(code, grey) if grey else code) for title, code in found]
