"""One optimizer step: mix, run the model, compute labels from its attention, update the weights."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from transmix.attention.error import AttentionError
from transmix.attention.reader import Attention
from transmix.data.seeding import derive_seed
from transmix.losses import mixed_accuracy
from transmix.mixing.mixed import Mixed
from transmix.models.build import AMP
from transmix.recipes import Recipe, RecipeError
from transmix.recipes.mixing import build_criterion, build_mixer, rule_name
from transmix.recipes.settings import Mixing
from transmix.training.ema import WeightAverage
from transmix.training.meter import Meter
from transmix.training.nonfinite import NotFinite
from transmix.training.optimizer import set_lr
from transmix.training.sharding import whole
from transmix.transmix import TransMix


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

    def __call__(self, step: int, micro_batches: list[tuple[Tensor, Tensor]], lr: float, mix: bool = True) -> None:
        """Take one optimizer step, without device synchronisation.

        Args:
            step: step number, counted over the whole run.
            micro_batches: uint8 images (b, 3, S, S) and labels (b,) int64 whose gradients are summed.
            lr: learning rate.
            mix: whether to mix in this step.
        """
        self.model.train()
        self.transmix.mixer.enabled = mix
        losses = []
        for micro, (images, labels) in enumerate(micro_batches):
            last = micro == len(micro_batches) - 1
            # Gradients are averaged over processes at the last micro-batch alone: FSDP2 has a switch, DDP a context.
            if hasattr(self.model, "set_requires_gradient_sync"):
                self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
            with nullcontext() if last or not hasattr(self.model, "no_sync") else self.model.no_sync():  # type: ignore[operator]
                loss = self.forward(step, micro, images, labels)
                self.scaler.scale(loss / len(micro_batches)).backward()
            losses.append(loss.detach())
        set_lr(self.optimizer, lr)
        self._descend(step + 1, torch.stack(losses))

    def forward(self, step: int, micro: int, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one micro-batch: the three lines of the README's loop."""
        tm = self.transmix
        images, labels = self.normalise(images), labels.to(self.device, non_blocking=True)
        tm.mixer.generator.manual_seed(derive_seed(self.seed, "mix", step, micro, self.rank))
        mixed = tm.mix(images, labels)
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
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


def build_transmix(mixing: Mixing, model: nn.Module) -> TransMix:
    """Return mixing, label rule and loss of a recipe, for an unwrapped model.

    Raises:
        RecipeError: an unknown method or rule, or an unknown setting of it.
        AttentionError: the rule needs attention, and the model's cannot be read.
    """
    try:
        return TransMix(
            model,
            mixer=build_mixer(mixing),
            labels=rule_name(mixing),
            labels_options=mixing.labels_options,
            criterion=build_criterion(mixing),
            module=mixing.module,
            prefix_tokens=mixing.prefix_tokens,
            grid=mixing.grid,
        )
    except AttentionError as error:
        raise AttentionError(f"{error}. (In a recipe: class_attention: true)") from error
    except (ValueError, TypeError) as error:
        raise RecipeError(str(error)) from error
