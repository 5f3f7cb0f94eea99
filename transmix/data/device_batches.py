"""Batches that stream: workers decode and crop, and the device does the rest of the augmentation, a batch at a time.

As everywhere, a sample depends only on its key; the random numbers differ from the loader's, with the same
distribution.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from transmix.data.augment import TrainingAugmentation
from transmix.data.batch_augment import BatchAugmentation
from transmix.data.dataset import Split
from transmix.data.loader import Sample, TrainingSamples
from transmix.data.masks import Masks, drawn, is_white
from transmix.data.sampler import SampleKey
from transmix.data.settings import Augmentation
from transmix.error import RecipeError


class CroppedSamples(TrainingSamples):
    """Training samples that are cropped and no more; masks (1, S, S) uint8 as grey, and last each sample's key.

    Args:
        split: N images.
        settings: the augmentation, of which the crop is taken.
        size: S.
        seed: run seed.
        masks: masks of the images, or None.
    """

    def __init__(self, split: Split, settings: Augmentation, size: int, seed: int, masks: Masks | None = None):
        crop = replace(settings, flip=0.0, rand_augment=None, color_jitter=0.0, random_erasing=0.0)
        foreground = None
        if masks is not None:
            move = TrainingAugmentation(crop, size, of_masks=True)
            foreground = lambda index, key: move(drawn(masks(index)), key)[:1]  # noqa: E731
        super().__init__(split, TrainingAugmentation(crop, size), seed, foreground)

    def load(self, sample: SampleKey) -> Sample:
        """Return an image, its label, its mask if there are masks, its key (3,), and the images that it replaces."""
        *parts, found = super().load(sample)
        return *parts, torch.tensor(sample), found


class DeviceAugmentation:
    """Augmentation of cropped batches on the device: all that follows the crop.

    Args:
        settings: the augmentation; its crop is not taken again.
        size: S.
        seed: run seed.
        device: target device.

    Raises:
        RecipeError: a device without float64, or a RandAugment policy that batches lack.
    """

    def __init__(self, settings: Augmentation, size: int, seed: int, device: torch.device):
        if device.type == "mps":
            raise RecipeError("augment_on device computes in float64, which mps does not have; give --augment-on cpu")
        self.augment = BatchAugmentation(replace(settings, crop="none"), (size, size), size, seed, device)
        self.change, self.device = self._change, device

    def compile(self) -> None:
        """Compile the augmentation; results are bit-identical. On a CPU it is slower."""
        self.change = torch.compile(self._change, fullgraph=True)

    def __call__(self, images: Tensor, labels: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return images (b, 3, S, S) uint8 on the device, labels as they came, and foreground (b, S, S) bool if any.

        Args:
            images: (b, 3, S, S) uint8, cropped.
            labels: (b,) int64.
            rest: masks (b, 1, S, S) uint8 if there are masks, and keys (b, 3) int64.
        """
        images, *masks, keys = (part.to(self.device, non_blocking=True) for part in (images, *rest))
        images, *moved = self.change(images, keys, *masks)
        return images, labels, *moved

    def _change(self, images: Tensor, keys: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        draws = self.augment.draw(keys)
        changed = self.augment.apply(images, draws)
        return (changed,) if masks is None else (changed, is_white(self.augment.apply_to_masks(masks, draws)))


class AugmentedBatches:
    """Training batches whose augmentation the device finishes.

    Args:
        cropped: batches of `CroppedSamples`.
        finish: the rest of the augmentation.
    """

    def __init__(self, cropped: Iterable[tuple[Tensor, ...]], finish: DeviceAugmentation):
        self.cropped, self.finish = cropped, finish

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        batches = iter(self.cropped)  # now and not at the first batch, as there
        return (self.finish(*batch) for batch in batches)
