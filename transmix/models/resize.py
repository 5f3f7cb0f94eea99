"""Images of any height and width for a model that was made for squares."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from transmix.attention import AttentionError
from transmix.data.augment import to_tensor
from transmix.models.build import check_patches


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


def resize_input(model: nn.Module, size: tuple[int, int]) -> None:
    """Make a model take images of another size, (H, W) in pixels; its position embedding is resized in place.

    Raises:
        RecipeError: Its patches do not divide the size.
        AttentionError: It cannot take the size.
    """
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
