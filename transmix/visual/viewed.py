"""What figures are made of: the model, classes, preprocessing and validation images of a run, a weights file, timm."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from transmix.attention import AttentionError
from transmix.data.augment import EvaluationCrop, to_tensor
from transmix.data.dataset import Split
from transmix.data.decode import decode_image
from transmix.data.grey import EACH_IMAGE, Grey, GreyRange, as_grey
from transmix.data.grey_range import with_grey
from transmix.data.source import in_classes, open_own
from transmix.evaluation.subject import open_subject
from transmix.models.build import build_model, check_patches, published_classes
from transmix.models.settings import Model
from transmix.models.start import head_size
from transmix.recipes import RecipeError
from transmix.recipes.check import check_grey_range
from transmix.recipes.settings import Mixing
from transmix.runs.checkpoint import read_tensors
from transmix.runs.folder import RunError, read_choice
from transmix.runs.trained import open_trained


@dataclass(frozen=True)
class Viewed:
    """A model to make figures of.

    Attributes:
        model: In evaluation mode, on the CPU.
        crop: (H, W, 3) uint8 array -> (3, H', W') uint8 tensor, as the model takes it.
        mean_std: Of the model's input, per colour channel.
        open_validation: Opens (class names, validation split), when it is needed.
        mixing: How the run mixed; for other models the paper's way.
        weights: "ema" if they are a running average, else "model".
        grey: How greyscale of more than 8 bits is scaled; None: not known, such images are refused.
        taken: Which weights were taken and why, in words.
    """

    model: nn.Module
    crop: Callable[[np.ndarray], Tensor]
    mean_std: tuple[tuple[float, ...], tuple[float, ...]]
    open_validation: Callable[[], tuple[tuple[str, ...], Split]]
    mixing: Mixing
    weights: str = "model"
    grey: Grey = None
    taken: str = ""


def open_viewed(
    target: str,
    *,
    data: str | None = None,
    model: str | None = None,
    checkpoint: str = "last",
    weights: str = "auto",
    size: tuple[int, int] | None = None,
    grey_range: GreyRange | None = None,
) -> Viewed:
    """Open what figures are to be made of.

    Args:
        target: A run folder, a .safetensors file, or the name of a timm model with published weights.
        data: Data set whose validation images are used; None: a run's own.
        model: timm name of the model in a .safetensors file that does not say so itself.
        checkpoint: "last" or "best", of a run.
        weights: Of a run: "model"; "ema", their running average; "auto", the average where the run kept one.
        size: (H, W) of the images that the model is to see; None: its own.
        grey_range: Values that are black and white in grey images of more than 8 bits; None: those that the run or the
            weights file has kept.

    Raises:
        RunError, RecipeError, DataError, CheckpointError, ExportError: What is missing or does not fit.
    """
    check_grey_range(grey_range)
    if Path(target).is_dir():
        viewed = _of_run(Path(target), data, checkpoint, weights, grey_range)
    elif "/" in target and not target.endswith(".safetensors"):
        raise RunError(f"{target}: no such run folder")
    elif data is not None:
        subject = open_subject(target, model=model, data=data, grey_range=grey_range)
        validation = subject.classes, subject.data.val
        seen = subject.models["model"], subject.crop, subject.mean_std
        viewed = Viewed(*seen, lambda: validation, Mixing(), grey=subject.data.grey, taken=subject.weights)
    else:
        viewed = _without_data(target, model)
        viewed = viewed if grey_range is None else replace(viewed, grey=grey_range)
    viewed.model.eval()
    return viewed if size is None else _resized(viewed, size)


def read_images(paths: Sequence[Path], crop: Callable[[np.ndarray], Tensor], grey: Grey = None) -> Tensor:
    """Decode image files, `grey` as in `decode_image`, and crop them as the model takes them: (B, 3, H, W) uint8.

    Raises:
        UnreadableImageError, DataError: One that cannot be read.
    """
    return torch.stack([crop(decode_image(path, str(path), grey)) for path in paths])


def validation_image(split: Split, crop: Callable[[np.ndarray], Tensor]) -> Callable[[int], Tensor]:
    """Return a function from a position in a split to that image as the model takes it, (3, H, W) uint8."""
    return lambda index: crop(split.image(index))


class Cover:
    """The centre of an image after it was resized to cover (H, W) / crop, bicubic: `EvaluationCrop` for any rectangle.

    Args:
        size: (H, W).
        crop: Fraction of the covered rectangle's sides that is kept.
    """

    def __init__(self, size: tuple[int, int], crop: float = 1.0):
        self.size, self.crop = size, crop

    def __call__(self, image: np.ndarray) -> Tensor:
        """Crop an (h, w, 3) uint8 array to a (3, H, W) uint8 tensor."""
        height, width = self.size
        scale = max(height / image.shape[0], width / image.shape[1]) / self.crop
        tall, wide = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
        resized = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BICUBIC))
        top, left = (tall - height) // 2, (wide - width) // 2
        return to_tensor(resized[top : top + height, left : left + width])


def _of_run(folder: Path, data_name: str | None, checkpoint: str, weights: str, grey_range: GreyRange | None) -> Viewed:
    trained = open_trained(folder, checkpoint, weights)
    recipe, classes, grey = trained.recipe, trained.classes, grey_range or trained.grey

    def open_validation() -> tuple[tuple[str, ...], Split]:
        data = open_own(recipe.data, recipe.run.seed, read_choice(folder), data_name)
        return classes, with_grey(in_classes(classes, data).val, grey)

    augmentation = recipe.augmentation
    crop = EvaluationCrop(recipe.data.image_size, augmentation.eval_crop)
    mean_std = augmentation.mean, augmentation.std
    about = trained.weights, grey, str(trained.chosen)
    return Viewed(trained.model, crop, mean_std, open_validation, recipe.mixing, *about)


def _without_data(target: str, model_name: str | None) -> Viewed:
    """Open a weights file or a published model for images that come as files."""

    def open_validation() -> tuple[tuple[str, ...], Split]:
        raise RecipeError(f"{target} comes without data; give --images FILE ..., or a data set: --data")

    taken = f"those of {target}"
    if not target.endswith(".safetensors"):
        taken = f"the published weights of {target}"
        model = build_model(Model(target, pretrained=True), published_classes(target), None)
    else:
        tensors, metadata = read_tensors(Path(target))
        about = json.loads(metadata.get("transmix", "{}"))
        if about:
            settings = Model(about["model"], about["model_options"], about.get("class_attention", False))
            model = build_model(settings, len(about["classes"]), about["image_size"])
            try:
                model.load_state_dict(tensors)
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:300]
                raise RecipeError(f"{target} does not fit {about['model']}: {reason}") from error
            crop = EvaluationCrop(about["image_size"], about["eval_crop"])
            mean_std, grey = (tuple(about["mean"]), tuple(about["std"])), as_grey(about.get("grey_range", EACH_IMAGE))
            return Viewed(model, crop, mean_std, open_validation, Mixing(), grey=grey, taken=taken)
        if model_name is None:
            raise RecipeError(f"{target} does not say which model it holds; name it: --model vit_small_patch16_224")
        model = build_model(Model(model_name, init=target), head_size(tensors) or 0, None, whole=True)
    config: Any = model.pretrained_cfg
    crop = EvaluationCrop(config["input_size"][-1], config["crop_pct"])
    mean_std = tuple(config["mean"]), tuple(config["std"])
    return Viewed(model, crop, mean_std, open_validation, Mixing(), taken=taken)


def _resized(viewed: Viewed, size: tuple[int, int]) -> Viewed:
    """Make the model take images of another size, and the crop give them."""
    model, crop = viewed.model, viewed.crop
    kept = crop.size / crop.resized if isinstance(crop, EvaluationCrop) else 1.0
    for side in size:
        check_patches(model, side)
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=size)  # type: ignore[operator]
        with torch.no_grad():
            model(torch.zeros(1, 3, *size))
    except Exception as error:  # timm's models raise what their code happens to raise
        reason = " ".join(str(error).split())[:200]
        raise AttentionError(
            f"{type(model).__name__} does not take images of {size[0]} x {size[1]} pixels ({reason}); leave --size out"
        ) from error
    return replace(viewed, crop=Cover(size, kept))
