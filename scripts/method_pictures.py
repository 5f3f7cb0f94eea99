"""Draw the pictures of docs/methods.md: each method on the same two photographs, with the weights of both labels.

    python scripts/method_pictures.py WEIGHTS.safetensors     of timm's vit_small_patch14_dinov2 at 224 pixels

The photographs come with scikit-learn (danielbuechele, vultilion; Flickr, CC BY 2.0). Masks for ObjectMix are where the
model's map is above its mean.
"""

import io
import sys
from pathlib import Path

import matplotlib as mpl
import timm
import torch
from matplotlib import pyplot as plt
from PIL import Image
from safetensors.torch import load_model
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from transmix.attention.guide import Guide
from transmix.methods import NAMED
from transmix.mixing.mixed import Mixed

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "methods"
SIDE, SEED = 224, 3
MEAN, STD = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
TITLES = "own image", "partner", "mixed"


def photographs() -> Tensor:
    """Return the two photographs, (2, 3, 224, 224) in 0..1: the middle of each."""
    crops = []
    for photo in load_sample_images().images:
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255
        left = (pixels.shape[2] - pixels.shape[1]) // 2
        square = pixels[None, :, :, left : left + pixels.shape[1]]
        crops.append(F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True))
    return torch.cat(crops).clamp(0, 1)


def mix(name: str, model: torch.nn.Module, photos: Tensor) -> Mixed:
    """Return the batch mixed by a method, and labelled by its rule."""
    images, labels = (photos - MEAN) / STD, torch.arange(2)
    generator = torch.Generator().manual_seed(SEED)
    tm = NAMED[name](model, generator=generator)
    masks = {}
    if name == "objectmix":
        guide = Guide(model)
        row, grid, _ = guide.look(images, labels).maps()
        guide.detach()
        maps = F.interpolate(row.unflatten(1, grid)[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
        masks = {"foreground": maps > maps.mean((1, 2), keepdim=True)}
    with torch.no_grad():
        mixed = tm.mix(images, labels, **masks)
        mixed = tm.relabel(mixed, logits=model.train()(mixed.images))
    tm.detach()
    return mixed


def draw(name: str, photos: Tensor, mixed: Mixed) -> None:
    """Write the picture of one method."""
    shown = (mixed.images[0] * STD + MEAN).clamp(0, 1)
    theirs = 1 - mixed.lam[0] if mixed.lam_partner is None else mixed.lam_partner[0]
    figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.5), layout="constrained")
    for axis, picture, title in zip(axes, (photos[0], photos[1], shown), TITLES, strict=True):
        axis.imshow(picture.permute(1, 2, 0))
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    area = mixed.lam_area[0]
    axes[2].set_title(
        f"label {mixed.lam[0]:.2f} own, {theirs:.2f} partner\n(area {area:.2f}, {1 - area:.2f})", fontsize=9
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128).save(OUT / f"{name}.png", optimize=True)


def main() -> None:
    """Draw all."""
    mpl.use("agg")
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=2, img_size=SIDE)
    load_model(model, sys.argv[1], strict=False)
    photos = photographs()
    for name in NAMED:
        draw(name, photos, mix(name, model, photos))
        print(OUT / f"{name}.png")


if __name__ == "__main__":
    main()
