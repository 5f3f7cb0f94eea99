"""Settings that a recipe leaves to the machine and the data: the batch size and the autocast type."""

from dataclasses import replace

import torch
from torch import nn

from transmix import distributed
from transmix.attention.eval_mode import eval_mode
from transmix.data.on_device import free_memory
from transmix.distributed import World
from transmix.recipes import Recipe

LARGEST_ON_CPU, LARGEST = 32, 64
"""Images per micro-batch at most. More make an epoch hardly faster, and its steps fewer."""

STEPS = 16
"""Steps an epoch at least, down to batches of `FEW`: small sets need more steps, rather than larger ones."""

FEW = 4
"""Images per micro-batch that are enough to mix."""

ROOM = 0.7
"""Fraction of the free memory that a step may take; the rest is for workspaces, fragments and other programs."""

BYTES_PER_WEIGHT = 20
"""float32 weight, gradient, two moments of AdamW, EMA."""


def with_autocast(recipe: Recipe, device: torch.device) -> Recipe:
    """Return a recipe with the autocast type for the device in the place of amp 'auto'."""
    if recipe.model.amp != "auto":
        return recipe
    # Emulated, bf16 is slower than float32. On CPUs it is, but for a few servers' matrix units.
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return replace(recipe, model=replace(recipe.model, amp="bf16" if has_bf16 else "none"))


def with_batch_size(recipe: Recipe, samples: int, model: nn.Module, world: World) -> tuple[Recipe, str | None]:
    """Return a recipe with a batch that fits data and memory in the place of batch_size None; every process must call.

    Args:
        recipe: settings.
        samples: number of training images.
        model: on the CPU, as it was made.
        world: processes and device.

    Returns:
        The recipe, and a line about a batch smaller than the device's usual one, or None.
    """
    if recipe.optimization.batch_size is not None:
        return recipe, None
    most = LARGEST_ON_CPU if world.device.type == "cpu" else LARGEST
    parts = world.size * recipe.optimization.accumulate
    for_memory = min(distributed.gather(_fits(recipe, model, most, world), world))
    batch = for_memory
    while batch > 2 and samples < (STEPS if batch > FEW else 1) * batch * parts:  # one image alone cannot be mixed
        batch //= 2
    per_step = batch * parts
    said = None
    if batch < most:
        reason = f"{samples} training images" if batch < for_memory else f"the memory of {world.device.type}"
        said = f"batch     {per_step} images, not {most * parts}, for {reason}; --batch-size sets another"
    return replace(recipe, optimization=replace(recipe.optimization, batch_size=per_step)), said


def _fits(recipe: Recipe, model: nn.Module, most: int, world: World) -> int:
    """Return the largest batch, `most` halved as often as needed, whose step fits into this device's free memory."""
    free = free_memory(world.device)
    if free is None:
        return most
    if world.device.type == "cpu":
        free //= world.local
    weights = sum(weight.numel() for weight in model.parameters())
    room = ROOM * free - BYTES_PER_WEIGHT * weights
    image = saved_bytes(model, recipe.data.image_size)
    while most > 1 and most * image > room:
        most //= 2
    return most


def saved_bytes(model: nn.Module, image_size: int) -> int:
    """Return the bytes that a model's forward keeps for backward per image of S x S pixels, without the weights.

    In float32; autocast keeps less.
    """
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def see(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with eval_mode(model), torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        graph = model(torch.zeros(1, 3, image_size, image_size))  # what it keeps lives as long as this
    del graph
    return sum(kept.values())
