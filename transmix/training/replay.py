"""Re-run a NaN/Inf step from its dump: find the first bad module and the images."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from transmix import distributed
from transmix.data.bad_images import BadImages, allowed_bad
from transmix.data.dataset import ImageData
from transmix.data.on_device import TrainingImages
from transmix.models.build import build_model, normaliser
from transmix.recipes import Recipe
from transmix.recipes.mixing import mixes_in
from transmix.runs.checkpoint import load_checkpoint, newest_checkpoint, set_random_state
from transmix.runs.folder import RunError, read_recipe
from transmix.training.batches import build_order, device_augmentation, loss_weights, training_masks, training_samples
from transmix.training.loop import load_run_data
from transmix.training.optimizer import a_copy, build_optimizer
from transmix.training.step import TrainingStep, build_transmix


def replay(folder: Path, device: str = "auto") -> Iterator[str]:
    """Re-run the step of a run's newest dump, process by process, and yield lines about NaN/Inf values.

    Raises:
        RunError: the run has no dump.
        DataError, RecipeError, CheckpointError: data, model or dump have changed.
    """
    found, problems = newest_checkpoint(folder / "nonfinite")
    if found is None:
        raise RunError(f"{folder} holds no step to replay (nonfinite/). {' '.join(problems)}")
    recipe, dump = read_recipe(folder), load_checkpoint(found)
    state, world = dump.state, distributed.start(device)
    data = load_run_data(recipe, folder, resumed=True)
    settings = replace(recipe.model, pretrained=False, init=None)  # the dump's weights come next
    model = build_model(settings, len(data.classes), recipe.data.image_size)
    model.load_state_dict(dump.tensors["model"])
    model.to(world.device)
    average = None
    if recipe.mixing.guide == "ema":
        average = a_copy(model)
        average.load_state_dict(dump.tensors["ema"])
    tm = build_transmix(recipe.mixing, model, average, loss_weights(recipe, data, world.device))
    normalise = normaliser(recipe.augmentation.mean, recipe.augmentation.std, world.device, False)
    load = _loader(recipe, data, world.device)
    yield f"weights: as trained, as step {state['step']} found them ({found})"
    processes, accumulate, per_step = state["processes"], state["accumulate"], recipe.optimization.images_per_step
    order = build_order(recipe, data, per_step // (processes * accumulate), (0, processes))
    optimizer = build_optimizer(model, recipe.optimization)
    for rank in range(processes):
        step = TrainingStep(model, tm, optimizer, None, normalise, recipe, world.device, rank)
        if f"random-{rank}" in dump.tensors:
            set_random_state(dump.tensors[f"random-{rank}"], world.device)
        model.train()
        tm.mixer.enabled = mixes_in(recipe.mixing, (state["step"] - 1) // order.steps_per_epoch)
        for micro, wanted in enumerate(islice(order.batches_of(state["step"], rank), accumulate)):
            where = f"step {state['step']}, process {rank}, micro-batch {micro}"
            names = [data.train.where(index) for _, index, _ in wanted]
            run = partial(step.forward, state["step"] - 1, micro, *load(wanted))
            yield f"{where}: {_what_is_not_finite(run, model, names)}"
            model.zero_grad()


def _loader(recipe: Recipe, data: ImageData, device: torch.device) -> Callable[[list], tuple[Tensor, ...]]:
    """Return a function from sample keys to a batch, as in the run."""
    settings, size, seed = recipe.augmentation, recipe.data.image_size, recipe.run.seed
    if recipe.data.on_device:
        met, masks = BadImages(allowed_bad(recipe.data)), training_masks(recipe, data)
        return TrainingImages(data.train, settings, size, seed, device, met, masks=masks).batch
    samples = training_samples(recipe, data)
    finish = device_augmentation(recipe, device) if settings.augment_on == "device" else lambda *batch: batch
    return lambda wanted: finish(*default_collate([samples[one] for one in wanted]))


def _what_is_not_finite(run: Callable[[], Tensor], model: nn.Module, images_from: list[str]) -> str:
    """Run one micro-batch forward and backward; report modules, images and gradients with NaN/Inf.

    Where no module's output tells which images are bad, all of the micro-batch are named.
    """
    broken: list[tuple[str, Tensor]] = []

    def look(_: nn.Module, __: Any, output: Any, name: str) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not broken and not output.isfinite().all():
            broken.append((name or "the model", output.detach()))

    hooks = [module.register_forward_hook(partial(look, name=name)) for name, module in model.named_modules()]
    try:
        loss = run()
    finally:
        for hook in hooks:
            hook.remove()
    parts = [f"loss {float(loss.detach()):g}"]
    if broken:
        name, output = broken[0]
        rows = (~output.isfinite()).flatten(1).any(1).nonzero().flatten().tolist() if output.ndim > 1 else []
        names = [images_from[row] for row in rows if row < len(images_from)]
        parts.append(f"the output of {name} is the first that is not finite, for training images {', '.join(names)}")
    loss.backward()
    gradients = ((name, weight.grad) for name, weight in model.named_parameters() if weight.grad is not None)
    wrong = [name for name, gradient in gradients if not gradient.isfinite().all()]
    if wrong and not broken:
        parts.append(f"gradients that are not finite: {', '.join(wrong[-3:])}")
    if not (broken or wrong):
        parts.append("everything is finite in this run of it")
    return "; ".join(parts if broken else [*parts, f"its training images: {', '.join(images_from)}"])
