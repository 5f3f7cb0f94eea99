"""Losses and accuracy of a mixed batch, from logits and a `Mixed`."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.labels.patches import fractions_on_patches, grid_of_maps
from transmix.mixing.mixed import IGNORED, Mixed, check_classes

REDUCTIONS = ("mean", "sum", "none")


class MixedCrossEntropy:
    """Compute the cross-entropy against mixed labels, weighed PER SAMPLE, without building a (B, K) target.

        loss_i = lam_i * CE(logits_i, own label) + (1 - lam_i) * CE(logits_i, partner's label)

    (`lam_partner` in the place of 1 - lam where the method gives it), with each label smoothed as y * (1 - s) + s / K.
    (Reducing each CE over the batch first and multiplying by lam after would train every sample with the batch's mean
    lam.) A label of class -100 adds nothing, and "mean" divides by the weights of the labels that there are, as torch's
    `ignore_index` does.

    With class weights w, of the smoothed and mixed label t (`Mixed.targets`):

        loss_i = sum over classes of w_c * t_ic * -log softmax(logits_i)_c

    which is torch's CrossEntropyLoss(weight=w) for soft targets. "mean" divides as without weights, by the number of
    labels, not by the sum of their weights: a batch cut up over processes or micro-batches has the same gradient.

    Args:
        smoothing: s in [0, 1).
        reduction: "mean" or "sum" over the batch, or "none" for (B,).
        class_weights: (K,) w, on the device of the logits; None: 1 for every class.

    Raises:
        ValueError: smoothing or reduction out of range.
    """

    def __init__(self, smoothing: float = 0.0, reduction: str = "mean", class_weights: Tensor | None = None):
        self.smoothing, self.reduction = _checked(smoothing, reduction)
        self.class_weights = class_weights

    def __call__(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the loss: float64 for logits in float64, else float32.

        Args:
            logits: (B, K), any float type.
            mixed: B rows.

        Raises:
            ValueError: logits of another batch size or number of classes, or of one class; on the CPU, a class that
                is none of the K.
            TypeError: a model's output object instead of its logits.
        """
        _check_logits(logits, mixed)
        if logits.shape[1] == 1:
            raise ValueError(
                "one logit has a softmax of 1 whatever the model says: the loss would be 0 and train nothing. Use "
                "MixedBCE with labels (B, 1) of a float type, or give the model two classes"
            )
        logits = in_float(logits)
        if self.class_weights is not None and self.class_weights.shape != logits.shape[1:]:
            raise ValueError(f"class_weights must be ({logits.shape[1]},), not {tuple(self.class_weights.shape)}")
        if mixed.labels.is_floating_point():
            targets = mixed.targets(logits.shape[1], self.smoothing)
            if self.class_weights is not None:
                targets = targets * self.class_weights
            per_sample = -(targets * logits.log_softmax(1)).sum(1)
            return _reduce(per_sample, self.reduction)
        # By -log softmax = logsumexp - logit, autograd keeps nothing of size (B, K) but the logits for backward.
        classes = check_classes(mixed.labels, logits.shape[1])
        own = logits.gather(1, classes[:, None])[:, 0]
        partners = logits.gather(1, mixed.of_partner(classes)[:, None])[:, 0]
        own_weight, partner_weight, known = _weights(mixed)
        weight = total = known if mixed.lam_partner is None else own_weight + partner_weight
        weighted = logits
        if self.class_weights is not None:
            own_weight = own_weight * self.class_weights[classes]
            partner_weight = partner_weight * mixed.of_partner(self.class_weights[classes])
            spread = total * self.class_weights.mean()
            weight = (1 - self.smoothing) * (own_weight + partner_weight) + self.smoothing * spread
            weighted = logits * self.class_weights
        hit = own_weight * own + partner_weight * partners
        if self.smoothing:
            hit = (1 - self.smoothing) * hit + self.smoothing * total * weighted.mean(1)
        per_sample = weight * logits.logsumexp(1) - hit
        return _reduce(per_sample, self.reduction, known)


class MixedBCE:
    """Binary cross-entropy of every class against the mixed label: multi-label data, DeiT III.

    Args:
        smoothing: y * (1 - s) + s / K before mixing; none unless asked for.
        threshold: 1 where a target exceeds this, else 0 (DeiT III: 0.0). Such labels no longer say how much:
            TransMix changes nothing under it.
        reduction: "mean" or "sum" over batch and classes, or "none" for (B,), the mean over classes.

    Raises:
        ValueError: smoothing or reduction out of range.
    """

    def __init__(self, smoothing: float = 0.0, threshold: float | None = None, reduction: str = "mean"):
        self.smoothing, self.reduction = _checked(smoothing, reduction)
        self.threshold = threshold

    def __call__(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the loss, in the type of `MixedCrossEntropy`'s; shapes and errors as there, one logit allowed.

        A class of -100 is no label: its share of the target is 0 everywhere, and so no class is wanted for it.
        """
        _check_logits(logits, mixed)
        if logits.shape[1] == 1 and not mixed.labels.is_floating_point():
            raise ValueError("one logit needs labels (B, 1) of a float type, 1 for yes: pass labels[:, None].float()")
        logits = in_float(logits)
        targets = mixed.targets(logits.shape[1], self.smoothing).to(logits.dtype)
        if self.threshold is not None:
            targets = targets.gt(self.threshold).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum() if self.reduction == "sum" else _reduce(losses.mean(1), self.reduction)


def token_losses(
    tokens: Tensor,
    mixed: Mixed,
    head: Callable[[Tensor], Tensor],
    smoothing: float = 0.0,
    *,
    grid: tuple[int, int] | None = None,
    extent: tuple[int, int] | None = None,
) -> Tensor:
    """Return SMMix's loss of the patch tokens: half for the row's own patches, half for the pasted ones, a scalar.

        own    = mean over rows of CE(head(mean of the own patches' tokens), own label)
        theirs = mean over rows of CE(head(mean of the pasted patches' tokens), partner's label)
        loss   = (own + theirs) / 2

    A patch counts by the fraction of its pixels that is the row's own, or the partner's. Rows without a mask, without
    a patch of the kind or with class -100 are left out of that mean; where none is left, it is 0. Gradient flows
    through tokens and head. Add it to the loss of the logits, as the authors do, with weight 1.

    Args:
        tokens: (B, P, D), the patch tokens that come out of the model's last norm, without prefix tokens, row-major.
        mixed: B rows.
        head: (n, D) -> (n, K), the model's classifier or one for this loss alone (the authors': a linear layer of its
            own).
        smoothing: s in [0, 1).
        grid: (h, w) with h * w = P; None: the one that strides over H x W make, see `find_grid`.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.

    Raises:
        ValueError: tokens of another shape, a grid that does not fit, smoothing out of its range, or partners that are
            no rows of this batch.

    Source: Chen et al., SMMix (ICCV 2023). Differs from the authors' code: any mask, not squares of patches alone.
    """
    if tokens.ndim != 3 or len(tokens) != len(mixed.labels):
        raise ValueError(f"tokens must be ({len(mixed.labels)}, P, D), not {tuple(tokens.shape)}")
    grid = grid_of_maps(mixed, tokens[..., 0], grid, "tokens")
    cross_entropy = MixedCrossEntropy(smoothing, "none")
    _check_partners(mixed)
    # A batch without a mask runs the head too, with no row that counts: processes under DDP may draw differently.
    mask = torch.zeros_like(mixed.images[:1, 0], dtype=torch.bool) if mixed.mask is None else mixed.mask
    # Autocast would compute the means in half precision, in which many tokens add up to too few digits.
    with torch.autocast(tokens.device.type, enabled=False):
        pasted = fractions_on_patches(mask, grid, extent).expand(len(tokens), -1)
        shares = torch.stack([1 - pasted, pasted], 1).to(in_float(tokens).dtype)  # (B, 2, P)
        amount = shares.sum(2)
        means = (shares @ in_float(tokens) / amount.clamp(min=1e-6)[..., None]).to(tokens.dtype)
    logits = head(means.transpose(0, 1).flatten(0, 1)).chunk(2)
    has_mask = mask.flatten(1).any(1)
    losses = tokens.new_zeros((), dtype=shares.dtype)
    for part, one in enumerate(logits):
        alone = replace(mixed, lam=torch.full_like(mixed.lam, 1 - part), lam_partner=None)
        known = _weights(alone)[2] if not mixed.is_floating_point() else torch.ones_like(mixed.lam)
        counts = has_mask & (amount[:, part] > 0) & (known > 0)
        row_losses = torch.where(counts, cross_entropy(one, alone), 0)
        losses = losses + row_losses.sum() / counts.sum().clamp(min=1) / 2
    return losses


def consistency_loss(logits: Tensor, clean_logits: Tensor, mixed: Mixed) -> Tensor:
    """Return how far a prediction is from the mixture of those for the unmixed images: SMMix's, a scalar.

        p    = softmax(lam * own clean logits + (1 - lam) * partner's clean logits)
        loss = mean over rows of sum over classes of p * (log p - log softmax(logits))

    (`lam_partner` in the place of 1 - lam where there is one.) LOGITS are mixed, not probabilities. p takes no
    gradient. Every row counts: one without a mask is compared with its own clean logits, or with the blend. Add it to
    the loss of the logits, as the authors do, with weight 1.

    Args:
        logits: (B, K), for the mixed images.
        clean_logits: (B, K), for the images before mixing, in their order; the authors': in eval mode.
        mixed: B rows.

    Raises:
        ValueError: logits of another batch size, clean logits of another shape, or partners that are no rows of this
            batch.
        TypeError: a model's output object instead of its logits.

    Source: Chen et al., SMMix (ICCV 2023).
    """
    _check_logits(logits, mixed)
    _check_logits(clean_logits, mixed)
    if clean_logits.shape != logits.shape:
        raise ValueError(f"clean_logits must be {tuple(logits.shape)}, as logits, not {tuple(clean_logits.shape)}")
    _check_partners(mixed)
    logits, clean = in_float(logits), in_float(clean_logits.detach())
    theirs = 1 - mixed.lam if mixed.lam_partner is None else mixed.lam_partner
    log_mixture = (mixed.lam[:, None] * clean + theirs[:, None] * mixed.of_partner(clean)).log_softmax(1)
    return (log_mixture.exp() * (log_mixture - logits.log_softmax(1))).sum(1).mean()


def mixed_accuracy(logits: Tensor, mixed: Mixed) -> Tensor:
    """Return the share of the mixed label that the top prediction hits, a scalar in [0, 1].

        mean of lam * [prediction = own class] + (1 - lam) * [prediction = partner's class]

    over the weights of the labels that there are: class -100 is none.

    Args:
        logits: (B, K).
        mixed: B rows with integer labels.

    Raises:
        ValueError: float labels, which have no single class to hit.
    """
    _check_logits(logits, mixed)
    if mixed.labels.is_floating_point():
        raise ValueError("mixed_accuracy needs integer labels; float labels have no single class to hit")
    predicted = logits.argmax(1)
    own, partners = predicted == mixed.labels, predicted == mixed.of_partner(mixed.labels)
    own_weight, partner_weight, known = _weights(mixed)
    return _reduce(own_weight * own + partner_weight * partners, "mean", known)


def _weights(mixed: Mixed) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of the own and the partner's label, 0 for class -100, and the fraction of labels that count.

    The share is 1 where both labels are there, whatever their weights sum to.
    """
    lost = mixed.labels == IGNORED
    own, partners = mixed.lam, 1 - mixed.lam if mixed.lam_partner is None else mixed.lam_partner
    own_lost, partner_lost = lost * own, mixed.of_partner(lost) * partners
    known = 1 - own_lost - partner_lost
    if mixed.lam_partner is not None:
        known = 1 - (own_lost + partner_lost) / (own + partners).clamp(min=torch.finfo(torch.float32).tiny)
    return own - own_lost, partners - partner_lost, known


def _reduce(per_sample: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    if reduction == "none":
        return per_sample
    if reduction == "sum":
        return per_sample.sum()
    return per_sample.mean() if weight is None else per_sample.sum() / weight.sum()


def in_float(logits: Tensor) -> Tensor:
    """Return logits in float32; float64 stays float64."""
    # On the CPU autocast leaves log_softmax in bfloat16, whose eight bits are too few for a loss.
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_logits(logits: Tensor, mixed: Mixed) -> None:
    if not isinstance(logits, Tensor):
        remedy = "the item that holds them" if isinstance(logits, tuple | list | dict) else ".logits"
        raise TypeError(f"logits must be a tensor, got {type(logits).__name__}: pass {remedy}")
    if logits.ndim != 2 or len(logits) != len(mixed.labels):
        raise ValueError(f"logits must be ({len(mixed.labels)}, K), not {tuple(logits.shape)}")


def _check_partners(mixed: Mixed) -> None:
    if mixed.partner is None and mixed.mask is not None:
        raise ValueError("the partners of these images are no rows of this batch, so what they have is not here")


def _checked(smoothing: float, reduction: str) -> tuple[float, str]:
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), not {smoothing}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    return smoothing, reduction
