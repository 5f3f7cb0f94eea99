"""Draw the picture of README.md: two photographs, a box of each on the other, and what each label gives it.

    python scripts/readme_picture.py WEIGHTS.safetensors cat.png rocket.jpg     of vit_small_patch14_dinov2

The photographs come with scikit-image: `chelsea.png` (Stefan van der Walt, CC0), `rocket.jpg` (SpaceX, public domain).
The boxes are chosen: one holds little but sky, the other the cat's eye. What they then get is the model's doing.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_model
from torch import Tensor

from transmix.attention.guide import Guide
from transmix.data.augment import EvaluationCrop
from transmix.labels import attention_labels
from transmix.mixing import paste_mask
from transmix.visual.pairs import Pair, label_shares, pairs_figure, trained_note

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "readme.png"
SIDE = 224
MEAN, STD = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
NAMES = "cat", "rocket"
BOXES = ((0, 126, 112, 224), (28, 14, 126, 112))
"""Of the rocket on the cat, and of the cat on the rocket: top, left, bottom and right in pixels."""


def photographs(paths: list[str]) -> Tensor:
    """Return the middle of each photograph, (2, 3, 224, 224) in 0..1."""
    crop = EvaluationCrop(SIDE, 1.0)
    return torch.stack([crop(np.asarray(Image.open(path).convert("RGB"))) for path in paths]).float() / 255


def main(weights: str, paths: list[str]) -> None:
    """Draw it."""
    mpl.use("agg")
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=2, img_size=SIDE)
    load_model(model, weights, strict=False)
    photos = photographs(paths)
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    for one, (top, left, bottom, right) in zip(mask, BOXES, strict=True):
        one[top:bottom, left:right] = True
    mixed = paste_mask(photos, torch.arange(2), mask)
    row, grid, _ = Guide(model).look((mixed.images - MEAN) / STD, mixed.labels).maps()
    mixed = attention_labels(mixed, row, grid=grid)
    pictures, cut = (one.permute(0, 2, 3, 1).numpy() for one in (photos, mixed.images))
    pairs = []
    for own in (0, 1):
        shares = label_shares(*(float(lam[own]) for lam in (mixed.lam_area, mixed.lam_evidence, mixed.lam)))
        names = NAMES[own], NAMES[1 - own]
        pairs.append(
            Pair(pictures[own], pictures[1 - own], cut[own], mask[own].numpy(), row[own].numpy(), names, shares)
        )
    figure = pairs_figure(pairs, grid, width=7.6, notes=(trained_note(0.5),))
    figure.savefig(OUT, dpi=130, facecolor="white", pil_kwargs={"optimize": True})
    print(OUT)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
