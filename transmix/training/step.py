"""One optimizer step: mix, run the model, compute labels from its attention, update the weights.

What it counts stays on the device until it is read: sums to report, and steps that were not finite.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from transmix.attention.error import AttentionError
from transmix.attention.find import patch_side
from transmix.attention.reader import Attention
from transmix.data.seeding import derive_seed
from transmix.distributed import World, whole
from transmix.error import TransMixError
from transmix.evaluation.accumulators import sum_dtype
from transmix.losses import mixed_accuracy
from transmix.methods import SMMix
from transmix.mixing.mixed import Mixed
from transmix.models.build import AMP
from transmix.recipes import Recipe, RecipeError
from transmix.recipes.mixing import build_criterion, build_mixer, rule_name
from transmix.recipes.settings import Mixing
from transmix.training.optimizer import WeightAverage, set_lr
from transmix.transmix import TransMix, label_shift

NAMES = ("loss", "mixed_accuracy", "label_shift", "empty_boxes", "boxes", "batches")


class Meter:
    """Running sums over the micro-batches since the last read.

    Args:
        device: device of the sums.
    """

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(NAMES), device=device, dtype=sum_dtype(device))

    def add(self, loss: Tensor, accuracy: Tensor, mixed: Mixed) -> None:
        """Add one micro-batch, without device synchronisation."""
        # Zeros in place of what is missing keep the sum one tensor, which is read back in a single copy.
        one, nothing = loss.new_ones(()), loss.new_zeros(())
        shift = empty = boxes = nothing
        if mixed.mask is not None and mixed.rule != "area":
            measured = label_shift(mixed)
            empty, boxes = measured["empty_boxes"], measured["boxes"]
            shift = measured["label_shift"] * boxes
        self.sums += torch.stack([loss, accuracy, shift, empty, boxes, one])

    def read(self, world: World) -> dict[str, float]:
        """Return the means since the last read, over all processes, and reset.

        Returns:
            loss, mixed_accuracy; for label rules other than area also label_shift (mean |lam_area - lam| of rows
            with a box) and empty_boxes (fraction of boxes with an evidence share below a tenth of their area share).
        """
        if world.size > 1:
            dist.all_reduce(self.sums)
        sums = dict(zip(NAMES, (self.sums / world.size).tolist(), strict=True))
        self.sums = torch.zeros_like(self.sums)
        means = {name: sums[name] / max(sums["batches"], 1) for name in ("loss", "mixed_accuracy")}
        if sums["boxes"] > 0:
            means["label_shift"] = sums["label_shift"] / sums["boxes"]
            means["empty_boxes"] = sums["empty_boxes"] / sums["boxes"]
        return means


class NotFiniteError(TransMixError):
    """Loss or gradients became NaN or Inf, and training was stopped."""

    code = 1


class NotFinite:
    """Tracks NaN/Inf steps on the device, and decides which steps to skip.

    Args:
        device: device of the gradients.
        stays: after one such step also skip all later ones, so that the weights are still those before it when
            training stops.
    """

    def __init__(self, device: torch.device, stays: bool):
        self.stays = stays
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)  # steps, first, row now, longest row

    def skip(self, step: int, bad: Tensor) -> Tensor:
        """Record whether a step (counted from 1) is bad; return whether to skip it, a bool on the device."""
        steps, first, row, longest = self.counts
        bad = bad & (steps == 0) if self.stays else bad  # what follows a skipped step says nothing new
        row = (row + 1) * bad
        first = torch.where((first == 0) & bad, step, first)
        self.counts = torch.stack([steps + bad, first, row, torch.maximum(longest, row)])
        return bad | (self.counts[0] > 0) if self.stays else bad

    def read(self, world: World) -> tuple[int, int, int]:
        """Return the largest counts over all processes, and reset; a series of bad steps at the end is continued.

        Returns:
            Number of NaN/Inf steps since the last read; number of the first such step, or 0; length of the longest
            series, including steps before the last read.
        """
        counts = self.counts.clone()
        if world.size > 1:
            dist.all_reduce(counts, dist.ReduceOp.MAX)
        steps, first, row, longest = counts.tolist()
        self.counts = torch.tensor([0, 0, row, row], device=self.counts.device)
        return steps, first, longest


class TrainingStep:
    """An optimizer step with its state.

    Args:
        model: the model, wrapped for DDP or FSDP, compiled or not.
        transmix: mixes, and reads the unwrapped model if the label rule needs it.
        optimizer: optimizer of the unwrapped model's parameters.
        average: EMA of the weights, or None.
        normalise: uint8 images -> the model's input on the device.
        recipe: recipe of the run.
        device: device of the model.
        rank: rank of this process.
    """

    def __init__(
        self,
        model: nn.Module,
        transmix: TransMix,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        normalise: Callable[[Tensor], Tensor],
        recipe: Recipe,
        device: torch.device,
        rank: int,
    ):
        self.model, self.transmix, self.optimizer, self.average = model, transmix, optimizer, average
        self.normalise, self.device, self.rank = normalise, device, rank
        self.seed = recipe.run.seed
        self.amp = AMP[recipe.model.amp]
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.model.amp == "fp16")
        self.clip = recipe.optimization.clip_grad or float("inf")
        self.parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.meter = Meter(device)
        self.not_finite = NotFinite(device, stays=recipe.run.on_nonfinite == "abort")
        self.keep_boxes = True  # the next batch with boxes, for a picture
        # What the model saw then: the batch before, the labels after, the attention if it was read.
        self.boxes: tuple[Tensor, Mixed, Attention | None] | None = None

    def __call__(self, step: int, micro_batches: list[tuple[Tensor, ...]], lr: float, mix: bool = True) -> None:
        """Take one optimizer step, without device synchronisation.

        Args:
            step: step number, counted over the whole run.
            micro_batches: uint8 images (b, 3, S, S), labels (b,) int64 and, where the label rule needs masks, the
                foreground (b, S, S) bool; their gradients are summed.
            lr: learning rate.
            mix: whether to mix in this step.
        """
        self.model.train()
        self.transmix.mixer.enabled = mix
        losses = []
        for micro, batch in enumerate(micro_batches):
            last = micro == len(micro_batches) - 1
            # Gradients are averaged over processes at the last micro-batch alone: FSDP2 has a switch, DDP a context.
            if hasattr(self.model, "set_requires_gradient_sync"):
                self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
            with nullcontext() if last or not hasattr(self.model, "no_sync") else self.model.no_sync():  # type: ignore[operator]
                loss = self.forward(step, micro, *batch)
                self.scaler.scale(loss / len(micro_batches)).backward()
            losses.append(loss.detach())
        set_lr(self.optimizer, lr)
        self._descend(step + 1, torch.stack(losses))

    def forward(
        self, step: int, micro: int, images: Tensor, labels: Tensor, foreground: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one micro-batch: the three lines of the README's loop."""
        tm = self.transmix
        images, labels = self.normalise(images), labels.to(self.device, non_blocking=True)
        foreground = None if foreground is None else foreground.to(self.device, non_blocking=True)
        tm.mixer.generator.manual_seed(derive_seed(self.seed, "mix", step, micro, self.rank))
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            mixed = tm.mix(images, labels, foreground=foreground)  # methods that look first run the model too
            logits = self.model(mixed.images)
        mixed = tm.relabel(mixed, logits=logits)
        loss = tm.loss(logits, mixed)
        self.meter.add(loss.detach(), mixed_accuracy(logits.detach(), mixed), mixed)
        if self.keep_boxes and mixed.mask is not None:
            self.boxes = images, mixed, tm.attention
        return loss

    def _descend(self, step: int, losses: Tensor) -> None:
        """Step the optimizer; if the gradient is not finite, the step is skipped on the device."""
        self.scaler.unscale_(self.optimizer)  # before clipping: the norm is that of the gradients themselves
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.clip))
        finite = norm.isfinite()  # the same on every process: gradients were averaged
        if self.scaler.is_enabled():
            # An overflow of half precision is no failure: the scaler skips the step and lowers its scale.
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.not_finite.skip(step, ~losses.isfinite().all())
        else:
            finite = ~self.not_finite.skip(step, ~finite)
            # Fused AdamW reads this flag on the device, as under a GradScaler, and leaves everything as it is where it
            # is set; a Python `if` would have to wait for the device at every step.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        if self.average is not None:
            self.average.update(finite.float())
        self.optimizer.zero_grad(set_to_none=True)


def where_to_read(mixing: Mixing) -> dict[str, Any]:
    """Return where a recipe has a model's attention read, in the words of `TransMix` and `AttentionReader`."""
    return {"module": mixing.module, "prefix_tokens": mixing.prefix_tokens, "grid": mixing.grid}


def build_transmix(
    mixing: Mixing, model: nn.Module, average: nn.Module | None = None, class_weights: Tensor | None = None
) -> TransMix:
    """Return mixing, label rule and loss of a recipe, for an unwrapped model and its EMA.

    Args:
        mixing: section of the recipe.
        model: the model.
        average: its EMA, or None.
        class_weights: (K,) weights of the classes in the loss, or None.

    Raises:
        RecipeError: an unknown method or rule, or an unknown setting of it; class weights with a method that has
            losses of its own.
        AttentionError: the rule needs attention, and the model's cannot be read.
    """
    mixer, look = build_mixer(mixing, patch_side(model)), None if mixing.guide == "model" else average
    criterion = build_criterion(mixing, class_weights)
    kind = SMMix if any(isinstance(method, SMMix.method) for method in mixer.methods) else TransMix
    if kind is SMMix and class_weights is not None:
        raise RecipeError("balance loss weighs one loss, and smmix adds two of its own; give --balance sampler")
    try:
        how = where_to_read(mixing) | {"labels": rule_name(mixing), "labels_options": mixing.labels_options}
        return kind(model, mixer=mixer, criterion=criterion, guide=look, **how)
    except AttentionError as error:
        in_recipe = ". (In a recipe: class_attention: true)" if "with_class_attention" in str(error) else ""
        raise AttentionError(f"{error}{in_recipe}") from error
    except (ValueError, TypeError) as error:
        raise RecipeError(str(error)) from error
