"""MixPro's labels: attention counts as much as the prediction already agrees with the label by area."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.labels.attention import own_attention
from transmix.labels.evidence import Evidence, weigh
from transmix.labels.patches import check_downsample, grid_of_maps
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class ProgressiveLabels:
    """MixPro's rule (PAL): trust attention row by row, the more the closer the prediction is to the label by area.

    Args:
        downsample: how the mask comes down to patches, "nearest" (the paper) or "fraction".
        smoothing: of the label that the prediction is compared with; None: as the loss smooths, where `TransMix`
            holds the rule, else 0.

    Raises:
        ValueError: a parameter out of its range.

    Source: Zhao et al., MixPro (ICLR 2023), Progressive Attention Labeling.
    """

    downsample: str = "nearest"
    smoothing: float | None = None

    needs: ClassVar = ("attention", "logits")

    def __post_init__(self) -> None:
        check_parameters(self.downsample, self.smoothing or 0.0)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by `evidence.attention` and `evidence.logits`."""
        seen, logits = evidence.attention, evidence.logits
        assert seen is not None
        assert logits is not None
        settings = {"downsample": self.downsample, "smoothing": self.smoothing or 0.0}
        return progressive_labels(mixed, seen.row, logits, grid=seen.grid, extent=seen.extent, **settings)


def progressive_labels(
    mixed: Mixed,
    attention: Tensor,
    logits: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    downsample: str = "nearest",
    smoothing: float = 0.0,
    extent: tuple[int, int] | None = None,
) -> Mixed:
    """Weigh labels by attention as far as the prediction agrees with the label by area: MixPro's PAL.

        a        = cos(label by area, softmax(logits))
        lam_attn = sum(A * (1 - M)) / sum(A)
        lam      = a * lam_attn + (1 - a) * lam_area

    A is the class token's attention over the P patches, M the mask brought to the patches. Each row has its own a.
    A row whose attention is 0 on every patch gets the area's label. Rows without a mask keep their label. No gradient
    flows into the label. `lam_attn` stands in `lam_evidence`.

    Args:
        mixed: the batch that the model saw.
        attention: (B, P) of any positive scale, patches in row-major order.
        logits: (B, K), the model's output for the batch.
        grid: (h, w) with h * w = P; None: the one that strides over H x W make, see `find_grid`.
        downsample: "nearest": a patch is pasted if its top left pixel is (the paper); "fraction": by the fraction of
            its pixels that are.
        smoothing: s of the label by area, y * (1 - s) + s / K, in [0, 1).
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image.

    Raises:
        ValueError: attention or logits of another shape, a grid that does not fit, a parameter out of its range.

    Source: Zhao et al., MixPro (ICLR 2023). Differs from the authors' code: a is detached (theirs lets a gradient flow
    through the label), and a row without attention gets the area's label (theirs is NaN).
    """
    check_parameters(downsample, smoothing)
    grid = grid_of_maps(mixed, attention, grid, "attention")
    if logits.ndim != 2 or len(logits) != len(mixed.images):
        raise ValueError(f"logits must be ({len(mixed.images)}, K), not {tuple(logits.shape)}")
    if logits.shape[1] == 1:
        raise ValueError("one logit has a softmax of 1 whatever the model says: progressive labels need two classes")

    def lam_attention(mask: Tensor) -> Tensor:
        by_attention = own_attention(mask, attention, grid, downsample, extent)
        return torch.where(attention.detach().float().sum(1) == 0, mixed.lam_area, by_attention)

    return weigh(mixed, "progressive", agreement(mixed, logits, smoothing), lam_attention)


def agreement(mixed: Mixed, logits: Tensor, smoothing: float) -> Tensor:
    """Return the cosine of each row's label by area and its prediction, (B,) float32 in [0, 1], without gradient."""
    by_area = replace(mixed, lam=mixed.lam_area, lam_partner=None)
    with torch.no_grad(), torch.autocast(mixed.lam.device.type, enabled=False):
        prediction = logits.float().softmax(1)
        return F.cosine_similarity(by_area.targets(logits.shape[1], smoothing), prediction).clamp(0, 1)


def check_parameters(downsample: str, smoothing: float) -> None:
    """Check the parameters of the rule.

    Raises:
        ValueError: one is out of its range.
    """
    check_downsample(downsample)
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), not {smoothing}")
