"""A run's batches: loaded by workers, or kept on the device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from transmix.data.augment import EvaluationCrop, TrainingAugmentation
from transmix.data.bad_images import BadImages
from transmix.data.balance import check_balance, class_weights
from transmix.data.dataset import DataError, ImageData
from transmix.data.device_batches import AugmentedBatches, CroppedSamples, DeviceAugmentation
from transmix.data.loader import (
    TrainingBatches,
    TrainingSamples,
    choose_threads,
    choose_workers,
    cores,
    evaluation_batches,
)
from transmix.data.masks import Masks, augmented_masks, open_masks
from transmix.data.on_device import hold_on_device
from transmix.data.sampler import EpochSampler
from transmix.distributed import World
from transmix.recipes import Recipe, RecipeError
from transmix.recipes.mixing import build_rule, rule_name

MANY_CORES = 8
"""From so many cores on, loader workers cost training on a CPU less than they save."""


@dataclass(frozen=True, eq=False)
class Batches:
    """This process's share of the data.

    Attributes:
        order: sampler of the training images; the start of an epoch is set there.
        training: micro-batches of an epoch, in the order of `order`: images and labels, and the foreground where the
            label rule needs masks.
        validation: called for each evaluation; yields (images, labels, valid). If the model is sharded, each process
            has the same number.
        crop: evaluation crop.
        bad: collects unreadable images.
    """

    order: EpochSampler
    training: Iterable[tuple[Tensor, ...]]
    validation: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None]]]
    crop: EvaluationCrop
    bad: BadImages


def prepare_batches(recipe: Recipe, data: ImageData, bad: BadImages, world: World) -> Batches:
    """Prepare the recipe's data loading, and set the number of torch's CPU threads.

    Raises:
        RecipeError: a batch size that cannot be split over processes and micro-batches, or fewer images than one step
            needs.
        DataError: images that do not fit on the device, or a label rule that needs masks which the data set lacks.
    """
    per_step, accumulate = recipe.optimization.images_per_step, recipe.optimization.accumulate
    if per_step % (world.size * accumulate):
        raise RecipeError(
            f"batch_size {per_step} is not a multiple of {world.size} processes x {accumulate} micro-batches"
        )
    size, settings = recipe.data.image_size, recipe.augmentation
    small = size <= 64 and settings.rand_augment is None
    # On few cores a worker takes one from the model, for images that a core augments faster than all others train.
    here = data.in_memory and (small or (world.device.type == "cpu" and cores() < MANY_CORES))
    workers = 0 if recipe.data.on_device else choose_workers(recipe.data.workers, here, world.local)
    if world.device.type == "cpu":
        torch.set_num_threads(choose_threads(recipe.run.threads, workers, world.local))
    batch, share = per_step // (world.size * accumulate), (world.rank, world.size)
    try:
        TrainingAugmentation(settings, size)  # timm's policy is known, before data is read
        order = build_order(recipe, data, batch, share)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    crop, pin = EvaluationCrop(size, settings.eval_crop), world.device.type == "cuda"
    filled = recipe.run.shard and world.size > 1
    if recipe.data.on_device:
        training, kept = hold_on_device(
            data, settings, order, crop, world.device, bad, filled, training_masks(recipe, data)
        )
        if recipe.model.compile and world.device.type != "cpu":
            training.images.compile()
        return Batches(order, training, partial(iter, kept), crop, bad)
    training: Iterable[tuple[Tensor, ...]] = TrainingBatches(training_samples(recipe, data), order, workers, pin, bad)
    if settings.augment_on == "device":
        finish = device_augmentation(recipe, world.device)
        if recipe.model.compile and world.device.type != "cpu":
            finish.compile()
        training = AugmentedBatches(training, finish)
    validation = partial(evaluation_batches, data.val, crop, batch, workers, pin, share, bad, filled)
    return Batches(order, training, validation, crop, bad)


def training_samples(recipe: Recipe, data: ImageData) -> TrainingSamples:
    """Return the samples that a run's loader gives: augmented, or cropped alone where the device does the rest.

    Raises:
        DataError: a label rule that needs masks which the data set lacks.
    """
    settings, size, seed = recipe.augmentation, recipe.data.image_size, recipe.run.seed
    masks = training_masks(recipe, data)
    if settings.augment_on == "device":
        return CroppedSamples(data.train, settings, size, seed, masks)
    augment = TrainingAugmentation(settings, size)
    return TrainingSamples(data.train, augment, seed, augmented_masks(masks, settings, size))


def device_augmentation(recipe: Recipe, device: torch.device) -> DeviceAugmentation:
    """Return what the device does to batches of `training_samples`.

    Raises:
        RecipeError: the device or the policy cannot do it.
    """
    return DeviceAugmentation(recipe.augmentation, recipe.data.image_size, recipe.run.seed, device)


def build_order(recipe: Recipe, data: ImageData, batch: int, share: tuple[int, int]) -> EpochSampler:
    """Return the sampler of a run's training images.

    Args:
        recipe: settings.
        data: the full data set.
        batch: images per micro-batch.
        share: rank and number of processes.

    Raises:
        ValueError: fewer images than one step needs.
        DataError: balancing the classes would change nothing.
    """
    per_step, repeats = recipe.optimization.images_per_step, recipe.augmentation.repeats
    if recipe.data.balance != "none":
        check_balance(recipe.data.balance, data.train.labels, data.classes)
    labels = data.train.labels if recipe.data.balance == "sampler" else None
    return EpochSampler(len(data.train), recipe.run.seed, batch, per_step, repeats, *share, labels=labels)


def loss_weights(recipe: Recipe, data: ImageData, device: torch.device) -> Tensor | None:
    """Return the weights of the classes in the loss, (K,); None if they count alike."""
    if recipe.data.balance != "loss":
        return None
    return class_weights(data.train.labels, len(data.classes)).to(device)


def training_masks(recipe: Recipe, data: ImageData) -> Masks | None:
    """Return the masks of the training images if the recipe's label rule needs them.

    Raises:
        DataError: the data set has none.
    """
    if "foreground" not in build_rule(recipe.mixing).needs:
        return None
    try:
        return open_masks(data, "train")
    except DataError as error:
        raise DataError(f"labels {rule_name(recipe.mixing)!r} need masks of the objects. {error}") from error
