"""A run's images, batch by batch: loaded by workers, or held on the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from transmix.data.augment import EvaluationCrop, TrainingAugmentation
from transmix.data.bad_images import BadImages
from transmix.data.dataset import ImageData
from transmix.data.loader import (
    TrainingBatches,
    TrainingSamples,
    choose_threads,
    choose_workers,
    evaluation_batches,
    training_loader,
)
from transmix.data.on_device import EvaluationImages, TrainingBatchesOnDevice, hold_on_device
from transmix.data.sampler import EpochSampler
from transmix.distributed import World
from transmix.recipes import Recipe, RecipeError


@dataclass(frozen=True, eq=False)
class Batches:
    """This process's share of the data.

    Attributes:
        data: all of it.
        order: of the training images; where an epoch starts is set there.
        training: micro-batches of an epoch, as `order` says.
        crop: what evaluation sees of an image.
        kept: validation images held on the device, if that was asked for.
    """

    data: ImageData
    order: EpochSampler
    training: TrainingBatches | TrainingBatchesOnDevice
    crop: EvaluationCrop
    kept: EvaluationImages | None
    bad: BadImages
    workers: int
    world: World

    def validation(self, filled: bool) -> Iterator:
        """Yield (images, labels, valid) of this process's share; `filled`: equally many batches in each process."""
        batch, world = self.order.batch, self.world
        if self.kept is not None:
            return iter(self.kept.batches(batch, self.bad, filled))
        pin = world.device.type == "cuda"
        return iter(
            evaluation_batches(
                self.data.val, self.crop, batch, self.workers, pin, (world.rank, world.size), self.bad, filled
            )
        )

    @property
    def validated_by_all(self) -> int:
        """How many batches every process validates; some have one more."""
        return -(-(len(self.data.val) // self.world.size) // self.order.batch)


def prepare_batches(recipe: Recipe, data: ImageData, bad: BadImages, world: World) -> Batches:
    """Prepare loading as a recipe says, and set torch's CPU threads beside its workers.

    Raises:
        RecipeError: a batch that cannot be divided as asked, or an epoch without a step.
        DataError: images that cannot be held on the device.
    """
    per_step, accumulate = recipe.optimization.batch_size, recipe.optimization.accumulate
    if per_step % (world.size * accumulate):
        raise RecipeError(
            f"batch_size {per_step} is not a multiple of {world.size} processes x {accumulate} micro-batches"
        )
    size, settings = recipe.data.image_size, recipe.augmentation
    small = data.in_memory and size <= 64 and settings.rand_augment is None
    workers = 0 if recipe.data.on_device else choose_workers(recipe.data.workers, small, world.local)
    if world.device.type == "cpu":
        torch.set_num_threads(choose_threads(recipe.run.threads, workers, world.local))
    batch = per_step // (world.size * accumulate)
    try:
        augment = TrainingAugmentation(settings, size)
        order = EpochSampler(
            len(data.train), recipe.run.seed, batch, per_step, settings.repeats, world.rank, world.size
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    crop = EvaluationCrop(size, settings.eval_crop)
    kept: EvaluationImages | None = None
    training: TrainingBatches | TrainingBatchesOnDevice
    if recipe.data.on_device:
        compiled = recipe.model.compile and world.device.type != "cpu"
        training, kept = hold_on_device(data, settings, order, crop, world.device, bad, compiled)
    else:
        samples = TrainingSamples(data.train, augment, recipe.run.seed)
        training = training_loader(samples, order, workers, world.device.type == "cuda", bad)
    return Batches(data, order, training, crop, kept, bad, workers, world)
