"""TransMix in anyone's training loop: mix a batch, run the model, weigh the labels by its attention."""

from torch import Tensor, nn

from transmix.attention.reader import AttentionReader
from transmix.losses import MixedCrossEntropy
from transmix.mixing.labels import DOWNSAMPLE, attention_labels
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer


class TransMix:
    """Mixup and CutMix whose box labels are weighed by what the model's class token attends to.

    Args:
        model: any ViT that `AttentionReader` can read; it is not changed. Wrapped, compiled or neither.
        smoothing: label smoothing, y * (1 - s) + s / K.
        weight: share of attention against area in the label; 0.5 is the paper's.
        downsample: how the box comes down to patches, "nearest" (the paper) or "fraction".
        module: where the class attention is, for models that `AttentionReader` does not know.
        prefix_tokens: how many tokens come before the patches, likewise.
        grid: (h, w) of the patches, likewise.
        mixer: parameters of `Mixer`: mixup_alpha, cutmix_alpha, prob, switch_prob, mode, generator, ...

    Raises:
        AttentionError: the model's attention cannot be read.
        ValueError: a parameter out of its range, or settings under which TransMix would change nothing.

    Example:
        >>> tm = TransMix(model, smoothing=0.1)
        >>> for images, labels in loader:
        ...     mixed = tm.mix(images, labels)
        ...     loss = tm.loss(model(mixed.images), mixed)

    Source: Chen et al., TransMix (CVPR 2022).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        smoothing: float = 0.0,
        weight: float = 0.5,
        downsample: str = "nearest",
        module: nn.Module | str | None = None,
        prefix_tokens: int | None = None,
        grid: tuple[int, int] | None = None,
        **mixer: object,
    ):
        self.mixer = Mixer(**mixer)  # type: ignore[arg-type]
        self.criterion = MixedCrossEntropy(smoothing)
        if not 0 <= weight <= 1 or downsample not in DOWNSAMPLE:
            raise ValueError(
                f"weight must lie in [0, 1] and downsample be one of {DOWNSAMPLE}: {weight}, {downsample!r}"
            )
        if reason := why_nothing_changes(self.mixer, weight):
            raise ValueError(f"TransMix would change nothing: {reason}")
        self.weight = weight
        self.downsample = downsample
        self.reader = AttentionReader(model, module, prefix_tokens=prefix_tokens, grid=grid)

    def mix(self, images: Tensor, labels: Tensor) -> Mixed:
        """Mix a batch; labels by area until `relabel`. Shapes as in `Draw.apply`."""
        self.reader.clear(images)
        return self.mixer(images, labels)

    def relabel(self, mixed: Mixed, *, rows: slice | None = None) -> Mixed:
        """Weigh the labels by the attention that the model's forward on `mixed.images` left, and take it.

        Args:
            mixed: the batch; other forwards of the model may have come before or since.
            rows: where the batch stands in what the model was given, if that was more: slice(0, B) after
                `model(torch.cat([mixed.images, clean]))`.

        Raises:
            AttentionError: no attention that is known to be that of `mixed.images`; see `AttentionReader.take`.
        """
        seen = self.reader.take(mixed.images, rows)
        return attention_labels(
            mixed, seen.row, grid=seen.grid, weight=self.weight, downsample=self.downsample, extent=seen.extent
        )

    def loss(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the cross-entropy of (B, K) logits against the labels by attention; relabels unless that is done."""
        return self.criterion(logits, mixed if mixed.rule == "attention" else self.relabel(mixed))

    def detach(self) -> None:
        """Stop reading the model, and leave it as it was."""
        self.reader.detach()


def why_nothing_changes(mixer: Mixer, weight: float) -> str | None:
    """Say why TransMix would train the same labels as its mixer alone; None if it would not."""
    if weight == 0:
        return "weight 0 leaves the label to the area"
    if mixer.prob == 0:
        return "prob 0 mixes no batch"
    if mixer.cutmix_alpha == 0 and mixer.cutmix_minmax is None:
        return "without CutMix (cutmix_alpha 0) no image has a box"
    if mixer.switch_prob == 0 and mixer.mixup_alpha > 0:
        return "with switch_prob 0 every mixed batch is Mixup, which has no box"
    return None


def label_shift(mixed: Mixed, weight: float) -> dict[str, Tensor]:
    """Return how far attention moved the labels of a relabelled batch, as scalars on its device.

    Returns:
        "label_shift": mean |lam_area - lam| over the rows with a box (0 without any);
        "empty_boxes": how many boxes got attention of less than a tenth of their area;
        "boxes": how many rows have a box.
    """
    if mixed.mask is None:
        nothing = mixed.lam.new_zeros(())
        return {"label_shift": nothing, "empty_boxes": nothing, "boxes": nothing}
    has_box = mixed.mask.flatten(1).any(1).expand(len(mixed.lam))
    attention_share = ((1 - mixed.lam) - (1 - weight) * (1 - mixed.lam_area)) / weight
    empty = has_box & (attention_share < 0.1 * (1 - mixed.lam_area))
    boxes = has_box.sum()
    shift = ((mixed.lam_area - mixed.lam).abs() * has_box).sum() / boxes.clamp(min=1)
    return {"label_shift": shift, "empty_boxes": empty.sum(), "boxes": boxes}
