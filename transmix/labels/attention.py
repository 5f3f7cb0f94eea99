"""TransMix's labels: weighed by the class token's attention in the mixed image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from transmix.labels.evidence import Evidence, weigh
from transmix.labels.patches import check_downsample, grid_of_maps, mask_on_patches, pixels_of
from transmix.mixing.mixed import Mixed


@dataclass(frozen=True)
class AttentionLabels:
    """TransMix's rule: the partner's share of the label is the attention inside its pixels, or partly so.

    Args:
        weight: share of attention against area in the label; 0.5 is the paper's.
        downsample: how the mask comes down to patches, "nearest" (the paper) or "fraction".
        shift: of "fraction", how many pixels above and left of its patch's middle a token looks; "model": `TransMix`
            finds it from the model. Tokens of overlapping patches (XCiT's) look half a patch away.

    Raises:
        ValueError: a parameter out of its range.

    Source: Chen et al., TransMix (CVPR 2022).
    """

    weight: float = 0.5
    downsample: str = "nearest"
    shift: float | str = 0

    needs: ClassVar = ("attention",)

    def __post_init__(self) -> None:
        check_parameters(self.weight, self.downsample, self.shift)

    def __call__(self, mixed: Mixed, evidence: Evidence) -> Mixed:
        """Weigh the labels by `evidence.attention`."""
        seen = evidence.attention
        assert seen is not None
        how = {"weight": self.weight, "downsample": self.downsample, "shift": pixels_of(self.shift)}
        return attention_labels(mixed, seen.row, grid=seen.grid, extent=seen.extent, **how)  # type: ignore[arg-type]


def attention_labels(
    mixed: Mixed,
    attention: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    weight: float = 0.5,
    downsample: str = "nearest",
    shift: float = 0,
    extent: tuple[int, int] | None = None,
) -> Mixed:
    """Weigh labels by where the model looks: TransMix's rule.

        lam_attn = sum(A * (1 - M)) / sum(A)
        lam      = weight * lam_attn + (1 - weight) * lam_area

    A is the class token's attention over the P patches, M the mask brought to the patches. Rows without a mask
    (Mixup, unmixed) keep their label. No gradient flows into the label. Sums are taken in float32. `lam_attn` stands
    in `lam_evidence`.

    Args:
        mixed: the batch that the model saw.
        attention: (B, P) of any positive scale, patches in row-major order.
        grid: (h, w) with h * w = P; None: the one that strides over H x W make, see `find_grid`.
        weight: share of attention against area; 0.5 is the paper's, 0 is plain CutMix.
        downsample: "nearest": a patch is pasted if its top left pixel is (the paper); "fraction": by the
            fraction of its pixels that are.
        shift: of "fraction", how many pixels above and left of its patch's middle a token looks.
        extent: (height, width) in pixels that the grid covers, from the top left corner; None: the whole image. More
            than the image where the model pads it (padding belongs to neither image), less where it leaves a
            remainder out.

    Raises:
        ValueError: attention of another shape, a grid that does not fit, a parameter out of its range.

    Source: Chen et al., TransMix (CVPR 2022): the label by attention; its section 4.1 takes the mean of both.
    """
    check_parameters(weight, downsample, shift)
    grid = grid_of_maps(mixed, attention, grid, "attention")
    return weigh(
        mixed, "attention", weight, lambda mask: own_attention(mask, attention, grid, downsample, extent, shift)
    )


def own_attention(
    mask: Tensor,
    attention: Tensor,
    grid: tuple[int, int],
    downsample: str,
    extent: tuple[int, int] | None,
    shift: float = 0,
) -> Tensor:
    """Return the share of each row's attention that lies outside of its mask, (B,) float32; NaN where it has none."""
    row = attention.detach().float()
    pasted = mask_on_patches(mask, grid, downsample, extent, shift).flatten(1)
    return (row * (1 - pasted)).sum(1) / row.sum(1)


def check_parameters(weight: float, downsample: str, shift: float | str = 0) -> None:
    """Check the parameters of the rule.

    Raises:
        ValueError: one is out of its range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is the share of attention in [0, 1], not {weight}")
    check_downsample(downsample, shift)
