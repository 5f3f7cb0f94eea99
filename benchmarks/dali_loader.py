"""NVIDIA DALI's loader on the CPU, with the augmentation that the other loaders of `pipeline.py` have.

It is measured where it is installed (`pip install nvidia-dali-cuda120`); nothing else here needs it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def dali_epoch(folder: Path, size: int, batch: int, threads: int, mean: Any, std: Any) -> Callable[[], None] | None:
    """Return a function that takes every batch of an epoch; None if DALI is not installed.

    Random resized crop (decoded and resized in one), flip, its own RandAugment (2 of its operations, strength 9),
    normalised float32 batches, random erasing with a quarter of the images; in `threads` threads besides Python's.
    """
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.auto_aug import rand_augment
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator
    except ImportError:
        return None

    # Not asynchronous: batches made ahead would take their time from the loader whose turn is next.
    @pipeline_def(
        enable_conditionals=True, batch_size=batch, num_threads=threads, device_id=None, seed=0,
        exec_async=False, exec_pipelined=False,
    )  # fmt: skip
    def training() -> Any:
        files, labels = fn.readers.file(file_root=str(folder), random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3])
        images = fn.resize(images, size=[size, size], interp_type=types.INTERP_CUBIC)
        images = fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))
        images = rand_augment.rand_augment(images, n=2, m=9, shape=[size, size])
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * one for one in mean],
            std=[255 * one for one in std],
        )
        if fn.random.coin_flip(probability=0.25, dtype=types.BOOL):
            sides = fn.random.uniform(range=[0.15, 0.57], shape=2)
            images = fn.erase(
                images, anchor=fn.random.uniform(range=[0, 0.6], shape=2), shape=sides, axis_names="HW",
                normalized_anchor=True, normalized_shape=True, fill_value=0.0,
            )  # fmt: skip
        return images, labels

    pipeline = training()
    pipeline.build()
    loader = DALIGenericIterator(
        [pipeline], ["images", "labels"], reader_name="files", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch
