"""transmix pack: resize a data set once, to files that are read by index through memory mapping."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from transmix.cli.options import parse
from transmix.data.bad_images import LIST, allowed_bad
from transmix.data.dataset import listing
from transmix.data.settings import Data
from transmix.data.source import choice_of
from transmix.error import RecipeError
from transmix.pack import PackSettings, Summary, pack


@dataclass(frozen=True)
class Pack:
    """Pack a data set: resize large images once, and write them to Arrow files that --data OUT reads.

    Images that are smaller keep their bytes, and so do those of more than 8 bits per channel. Other parts than the
    training part keep all their images whole, unless --val-short-side is given. The same command continues where it
    stopped.
    """

    data: Annotated[str, tyro.conf.Positional, "pack"]
    """Data set: a name, or a folder in any layout that `transmix train` reads."""
    out: Annotated[Path, tyro.conf.Positional]
    """Output folder: absent, empty, or of the same command before."""
    short_side: int = 288
    """Resize larger training images to this shorter side in pixels. 288 leaves training at 224 room for crops; take
    1.286 times the model's image_size."""
    quality: int = 90
    """JPEG quality of resized images, 1 to 100; colour is subsampled (4:2:0)."""
    val_short_side: int | None = None
    """Resize larger images of all other parts too; None: they keep their bytes, so that scores are those of whole
    images."""
    masks: bool = True
    """Pack foreground masks where the data set has any, in the size of their images."""
    shard_mb: int = 1000
    """Begin a new file after so many MB of images."""
    workers: int | None = None
    """Number of worker processes; None: chosen from the CPU cores. The files do not depend on it."""
    held_out: Annotated[str | None, "parts and columns"] = None
    """Part for validation, as for `transmix train`."""
    val_fraction: float | None = None
    """Hold out this fraction of each class of the training images, as `transmix train` does, as a part val."""
    image_column: str | None = None
    """Column with the images in Parquet files and label lists; None: found by its name."""
    label_column: str | None = None
    """Column with the labels in Parquet files and label lists; None: found by its name."""
    download: str | None = None
    """Folder to download a torchvision:NAME data set to, unless its files exist there."""
    data_dir: str | None = None
    """Folder with the files of a torchvision:NAME data set; nothing is downloaded."""
    on_bad_image: Annotated[Literal["error", "skip"], "images that cannot be read"] = "error"
    """'error': name all of them and stop; 'skip': leave them out and list them in OUT/bad_images.txt."""
    max_bad_images: int = 100
    """Maximum number of skipped images; more are an error."""


def main(arguments: list[str]) -> None:
    """Parse the command line, pack, and say what came out."""
    asked = parse(Pack, "pack", arguments)
    _check(asked)
    names = "held_out", "val_fraction", "image_column", "label_column", "on_bad_image", "max_bad_images"
    settings = Data(**{name: getattr(asked, name) for name in names})
    summary = pack(
        asked.data,
        asked.out,
        PackSettings(asked.short_side, asked.quality, asked.val_short_side, asked.masks, asked.shard_mb),
        choice=choice_of(settings),
        places={"download": asked.download, "data_dir": asked.data_dir},
        workers=asked.workers,
        max_bad=allowed_bad(settings),
    )
    for line in lines(summary, asked.out):
        print(line)


def _check(asked: Pack) -> None:
    """Raise a RecipeError for a number out of range."""
    at_least = {"short_side": 16, "val_short_side": 16, "quality": 1, "shard_mb": 1, "max_bad_images": 1, "workers": 0}
    for name, least in at_least.items():
        value = getattr(asked, name)
        if value is not None and value < least:
            raise RecipeError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if asked.quality > 100:
        raise RecipeError(f"--quality {asked.quality}: must be at most 100")


def lines(summary: Summary, out: Path) -> list[str]:
    """Return what to say about a packed data set, one line each."""
    images, resized = summary.count("images"), summary.count("resized")
    parts = [
        f"{sum(shard.images for shard in summary.index.of(part.name)):,} {part.name}" for part in summary.index.parts
    ]
    found = [*summary.notes, f"{listing(parts)}: {resized:,} resized, {images - resized:,} as they were"]
    if summary.skipped:
        found.append(f"{len(summary.skipped)} images cannot be read and are left out; {out / LIST} lists them")
    sizes = f"packed {images:,} images, {_megabytes(summary.source_bytes)} -> {_megabytes(summary.packed_bytes)}"
    gain = "the source is in memory as it is, so that no reading gets faster"
    if summary.decoding is not None:
        share = f"{summary.decoding:.2f}".removeprefix("0")
        gain = f"decoding takes about {share} of the time (measured on {summary.measured} images)"
    return [*found, f"{sizes}; {gain}", f"train from it: --data {out}"]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10e6 else f"{size / 1e6:,.1f} MB"
