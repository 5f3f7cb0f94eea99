"""Folders of synthetic photographs: JPEG files that cost about what real ones cost to read and decode."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image


def photograph(seed: int, height: int, width: int) -> bytes:
    """Return a JPEG file of smooth colours with grain; 500 x 375 pixels take about 80 KB, as in ImageNet."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 20), max(2, width // 20), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grainy = smooth + rng.normal(0, 9, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_folders(
    root: Path, images: int, *, classes: int = 10, height: int = 375, width: int = 500, different: int = 512
) -> Path:
    """Write class folders, train/ with `images` files and val/ with one a class; past `different`, files are links."""
    made: list[Path] = []
    for split, count in (("train", images), ("val", classes)):
        for index in range(count):
            path = root / split / f"class{index % classes:03d}" / f"{index:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if index < min(different, images) and split == "train":
                path.write_bytes(photograph(index, height, width))
                made.append(path)
            else:
                os.link(made[index % len(made)], path)
    return root
