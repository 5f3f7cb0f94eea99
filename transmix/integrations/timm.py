"""TransMix in timm's train.py: a `mixup_fn` with timm's parameters, and the loss that goes with it.

Three lines in train.py, at the end of `elif mixup_active:` where the training loss is chosen, and --no-prefetcher:

    +from transmix.integrations.timm import TransMixup
     ...
         else:
             train_loss_fn = SoftTargetCrossEntropy()
    +    mixup_fn = TransMixup(model, train_loss_fn, **mixup_args)
    +    train_loss_fn = mixup_fn.loss

Everything else stays: --smoothing, --mixup-off-epoch, --bce-loss and its kin, --amp, --channels-last,
--grad-accum-steps, --torchcompile, --model-ema, DDP. A script that hands `criterion_kwargs` to a timm task instead of
a loss takes `TransMixup(model, task.criterion, **mixup_args)` and `task.criterion = mixup_fn.loss` after the task;
with a MultiLabelClassificationTask, `multi_label=True` as well.

timm's prefetcher mixes in the collate function, so the loss raises an error. To keep the prefetcher, mix after it, with
two more changes:

    -                collate_fn = FastCollateMixup(**mixup_args)

    -            if mixup_fn is not None:
    -                input, target = mixup_fn(input, target)
    +        if mixup_fn is not None:
    +            input, target = mixup_fn(input, target)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transmix.losses import MixedCrossEntropy, in_float
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer
from transmix.transmix import TransMix


class TransMixup:
    """Mixes images like timm's `Mixup`; the loss computes the labels from the model's attention.

    Parameters have timm's names and meanings, and its defaults except two: `cutmix_alpha` is 1.0 (attention only
    changes CutMix labels) and `num_classes` is None. Odd batch sizes and float labels are supported, images are not
    modified in place, and draws come from a torch generator instead of NumPy's global one.

    Args:
        model: the model that is trained, before or after `torch.compile` and DDP.
        criterion: loss of (B, K) logits against (B, K) targets, such as timm's `SoftTargetCrossEntropy` or
            `BinaryCrossEntropy` (its `target_threshold` makes labels 0 or 1, so TransMix has little effect).
            None: cross-entropy without dense targets; binary cross-entropy if `multi_label`.
        mixup_alpha: Mixup's lam comes from Beta(alpha, alpha); 0 turns Mixup off.
        cutmix_alpha: Beta(alpha, alpha) of CutMix; 0 turns CutMix off.
        cutmix_minmax: smallest and largest side of the box, as fractions of the image's side.
        prob: probability that a batch (row, pair) is mixed.
        switch_prob: probability of CutMix if both are on.
        mode: "batch", "pair" or "elem".
        correct_lam: recompute lam from the box clipped to the image.
        label_smoothing: y * (1 - s) + s / K; of multi-label targets y * (1 - s) + s / 2. Also applies while mixing is
            off.
        num_classes: K, checked against the logits; None: taken from the logits.
        multi_label: labels are (B, K), independent classes.
        weight: share of attention against area in the label; 0.5 is the paper's.
        downsample: how the box mask is downsampled to patches, "nearest" (the paper) or "fraction".
        module: module with the class attention, for models that `AttentionReader` does not know.
        prefix_tokens: number of tokens before the patches, for such models.
        grid: (h, w) of the patches, for such models.
        generator: random generator. None: a new one, seeded with `torch.initial_seed()`, which train.py has set
            to the seed plus the rank.
        transmix: another method for `model`, such as `transmix.SnapMix(model)`, in place of the settings of mixing and
            labels above; it is smoothed by `label_smoothing`.

    Attributes:
        mixup_enabled: False turns mixing off, smoothing stays; train.py sets it at `--mixup-off-epoch`.
        loss: the training loss, (logits, target) -> scalar, for the target returned by this object.

    Raises:
        AttentionError: the model's attention cannot be read.
        ValueError: a parameter out of its range, or settings under which TransMix would change nothing.

    Example:
        >>> mixup_fn = TransMixup(model, label_smoothing=0.1, num_classes=1000)
        >>> images, target = mixup_fn(images, target)
        >>> loss = mixup_fn.loss(model(images), target)
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 1.0,
        cutmix_minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int | None = None,
        multi_label: bool = False,
        weight: float = 0.5,
        downsample: str = "nearest",
        module: nn.Module | str | None = None,
        prefix_tokens: int | None = None,
        grid: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
        transmix: TransMix | None = None,
    ):
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes
        self.multi_label = multi_label
        switch = mixup_alpha, cutmix_alpha, cutmix_minmax, prob, switch_prob, mode, correct_lam  # in timm's order
        mixer = Mixer(*switch, generator=generator)
        label = {"smoothing": label_smoothing, "weight": weight, "downsample": downsample}
        place = {"module": module, "prefix_tokens": prefix_tokens, "grid": grid}
        self.transmix = TransMix(model, mixer=mixer, **label, **place) if transmix is None else transmix
        if transmix is not None:
            transmix.criterion = MixedCrossEntropy(label_smoothing)
        if criterion is None and multi_label:
            criterion = nn.BCEWithLogitsLoss()
        self.loss = TransMixLoss(self, criterion)

    def __call__(self, images: Tensor, target: Tensor) -> tuple[Tensor, Mixed]:
        """Return the mixed images and, as the target, a record for `loss`.

        Args:
            images: (B, C, H, W).
            target: (B,) integer classes, or (B, K) float.

        Raises:
            ValueError: images and target do not fit, or `multi_label` needs (B, K) but got classes.
        """
        if self.multi_label:
            if target.ndim != 2:
                raise ValueError(f"multi_label targets must be (B, K), one column a class, not {tuple(target.shape)}")
            target = target.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        mixed = self.transmix.mix(images, target)
        return mixed.images, mixed

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; targets are smoothed in both cases."""
        return self.transmix.mixer.enabled

    @mixup_enabled.setter
    def mixup_enabled(self, on: bool) -> None:
        self.transmix.mixer.enabled = on


class TransMixLoss(nn.Module):
    """The loss of a `TransMixup`. It is a module because train.py moves its loss to the device."""

    def __init__(self, mixup: TransMixup, criterion: Callable[[Tensor, Tensor], Tensor] | None):
        super().__init__()
        self.mixup = mixup
        self.criterion = criterion  # if it is a module, it is moved along with this one
        if criterion is not None:
            dense: Any = partial(self._dense)
            # SMMix's own losses smooth as this one does.
            dense.smoothing = 0.0 if mixup.multi_label else mixup.label_smoothing
            mixup.transmix.criterion = dense

    def _dense(self, logits: Tensor, mixed: Mixed) -> Tensor:
        assert self.criterion is not None
        full = in_float(logits)
        # Multi-label targets are smoothed as they come in, the others here: nowhere twice.
        smoothing = 0.0 if self.mixup.multi_label else self.mixup.label_smoothing
        return self.criterion(full, mixed.targets(logits.shape[1], smoothing).to(full.dtype))

    def forward(self, logits: Tensor, target: Mixed) -> Tensor:
        """Return the loss of (B, K) logits against the labels by attention.

        Raises:
            ValueError: a target not made by `mixup_fn`, or logits with another number of classes.
            AttentionError: no forward in training mode since the batch was mixed.
        """
        if not isinstance(target, Mixed):
            what = f"a tensor {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
            raise ValueError(
                f"the target is {what}, not the record that TransMixup returns: mixup_fn was not called for this "
                f"batch. timm's prefetcher mixes in the collate function and never calls it: run train.py with "
                f"--no-prefetcher, or mix after the prefetcher (see transmix.integrations.timm)"
            )
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits must be a tensor, got {type(logits).__name__}: pass the tensor in it")
        classes, wanted = logits.shape[1], self.mixup.num_classes
        if wanted not in (None, classes):
            raise ValueError(f"the model gives {classes} classes, but num_classes is {wanted}")
        return self.mixup.transmix.loss(logits, target)
