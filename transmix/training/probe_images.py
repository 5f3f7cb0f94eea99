"""Pictures and examples of a run: its first boxes, and a few validation images after every epoch."""

import dataclasses

import torch
from torch import Tensor, nn

from transmix.attention import Attention, AttentionReader
from transmix.attention.eval_mode import eval_mode
from transmix.data.loader import EvaluationSamples
from transmix.recipes.mixing import build_rule
from transmix.runs import folder as run_folder
from transmix.runs.error import RunError
from transmix.training.checkpoint_state import RunState

COUNT = 8
"""How many fixed validation images are looked at."""


def keep_examples(run: RunState, epoch: int) -> None:
    """Write attention and logits of the same validation images, evenly spaced over the split, after an epoch."""
    if not (run.world.is_main or run.sharded):
        return
    val = run.data.val
    samples = EvaluationSamples(val, run.batches.crop)
    spaced = torch.linspace(0, len(val) - 1, min(COUNT, len(val))).round().int().tolist() if run.world.is_main else []
    chosen = list(filter(None, map(samples.readable, spaced)))
    # A sharded model runs in all processes or in none; what the others see does not matter.
    images = torch.stack([image for image, _ in chosen] or [samples.black()])
    logits, attention = look(run.bare, run.reader, run.step.normalise(images))
    if not chosen:
        return
    tensors = {"images": images, "labels": torch.tensor([label for _, label in chosen]), "logits": logits}
    if attention is not None:
        tensors |= {"attention": attention.row, "grid": torch.tensor(attention.grid)}
    try:
        run_folder.write_examples(run.folder, epoch, tensors)
    except RunError as error:  # a picture is no reason to lose a run
        run.say(f"warning: {error}")


def look(model: nn.Module, reader: AttentionReader | None, images: Tensor) -> tuple[Tensor, Attention | None]:
    """Return logits (B, K) and attention, or None without a reader, of a model in eval mode."""
    if reader is not None:
        reader.eval = True
    try:
        with eval_mode(model), torch.no_grad():
            logits = model(images)
        return logits, reader.take(images) if reader is not None else None
    finally:
        if reader is not None:
            reader.eval = False


def draw_boxes(run: RunState, name: str) -> None:
    """Draw the last batch with boxes, if there is one, with its labels: area, attention, trained."""
    kept, path = run.step.boxes, run.folder / name
    if kept is None:
        return
    run.step.keep_boxes, run.step.boxes = False, None
    if not run.world.is_main or (path.exists() and not (run.may_stop and name == "last_boxes.png")):
        return
    from transmix.visual.page import save_figure
    from transmix.visual.pairs import mixed_batch_figure

    images, mixed, attention = kept
    mean, std = (torch.tensor(v)[:, None, None] for v in (run.recipe.augmentation.mean, run.recipe.augmentation.std))
    mixed_images, images = ((pixels.float().cpu() * std + mean).clamp(0, 1) for pixels in (mixed.images, images))
    mixed = dataclasses.replace(mixed.to("cpu"), images=mixed_images)
    row, grid = (None, None) if attention is None else (attention.row.cpu(), attention.grid)
    weight = getattr(build_rule(run.recipe.mixing), "weight", None)
    try:
        figure = mixed_batch_figure(mixed, row, grid, run.data.classes, base_images=images, weight=weight)
        save_figure(figure, path)
    except Exception as error:  # a picture is no reason to lose a run
        run.say(f"warning: {name} could not be drawn: {error}")
