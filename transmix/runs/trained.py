"""What a run trained, ready to be written for other programs: the model, its classes, its preprocessing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from transmix.data.augment import EvaluationCrop
from transmix.data.grey import Grey
from transmix.metrics import METRICS, in_log
from transmix.models.build import build_model
from transmix.recipes import Recipe
from transmix.runs.checkpoint import read_tensors
from transmix.runs.folder import RunError, read_classes, read_grey_range, read_recipe
from transmix.runs.weights import RunWeights, choose_weights


@dataclass(frozen=True)
class Trained:
    """A trained model and what is known of it.

    Attributes:
        recipe: every setting of the run.
        classes: what the K columns of the logits mean.
        model: images (B, 3, S, S), normalised, to logits (B, K); on the CPU, in evaluation mode.
        metadata: of the weights file, by which `transmix evaluate` can use it.
        chosen: which weights, of which step, and why.
        scores: of these weights on the validation split, as the run logged them; empty if that step was not evaluated.
        grey: how the run scales greyscale of more than 8 bits.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    model: nn.Module
    metadata: dict[str, str]
    chosen: RunWeights
    scores: dict[str, Any]
    grey: Grey = None

    @property
    def weights(self) -> str:
        """The name of the weights: "model", or "ema"."""
        return self.chosen.name

    @property
    def step(self) -> int:
        """The optimizer step that the weights are of."""
        return self.chosen.step

    @property
    def class_attention(self) -> bool:
        """Whether a class-attention head of ours replaces the model's pooling."""
        return self.recipe.model.class_attention


def open_trained(run: Path, checkpoint: str = "last", weights: str = "auto") -> Trained:
    """Open what a run trained.

    Args:
        run: its folder.
        checkpoint: "last" or "best".
        weights: "model"; "ema"; "auto", the EMA where the run kept one and it is not far below.

    Raises:
        RunError, CheckpointError, RecipeError: the folder holds no run, no whole checkpoint, or no average, or its
            weights do not fit its model.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder")
    chosen = choose_weights(run, checkpoint, weights, "export")
    recipe, classes = read_recipe(run), read_classes(run)
    tensors, metadata = read_tensors(chosen.folder / f"{chosen.name}.safetensors")
    settings = replace(recipe.model, pretrained=False, init=None, drop_path=0.0, grad_checkpointing=False)
    model = build_model(settings, len(classes), recipe.data.image_size)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{chosen.folder} does not fit {settings.model}: {reason}") from error
    return Trained(recipe, classes, model.eval(), metadata, chosen, _scores(chosen), read_grey_range(run))


def preprocessing(trained: Trained) -> dict[str, Any]:
    """Return how the run's evaluation makes the model's input of an image.

    The shorter side is resized to `resize` pixels, bicubic; the centre of `image_size` pixels a side is cut out, a
    fraction `crop_pct` of the resized side; channels are RGB, (x / 255 - mean) / std. Where the run has a grey range,
    `grey_range` is what becomes black and white in grey images of more than 8 bits.
    """
    size, augmentation = trained.recipe.data.image_size, trained.recipe.augmentation
    grey = {"grey_range": list(trained.grey)} if isinstance(trained.grey, tuple) else {}
    return grey | {
        "image_size": size,
        "resize": EvaluationCrop(size, augmentation.eval_crop).resized,
        "crop_pct": augmentation.eval_crop,
        "interpolation": "bicubic",
        "mean": list(augmentation.mean),
        "std": list(augmentation.std),
    }


def _scores(chosen: RunWeights) -> dict[str, Any]:
    prefix, row = "ema_" if chosen.name == "ema" else "", chosen.scores
    found = {in_log(name): row[prefix + in_log(name)] for name in METRICS if prefix + in_log(name) in row}
    return found | {"epoch": row["epoch"]} if found else {}
