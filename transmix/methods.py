"""The methods that papers name, each in three lines like TransMix: what is mixed, and what the label is.

Each class is `TransMix` with a method of `transmix.mixing` and a rule of `transmix.labels`, under the paper's name:

    tm = SnapMix(model, alpha=5.0, smoothing=0.1)
    for images, labels in loader:
        mixed = tm.mix(images, labels)
        loss = tm.loss(model(mixed.images), mixed)
"""

import weakref
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from transmix import mixing
from transmix.attention.attach import Row
from transmix.attention.find import class_head, patch_side, unwrap
from transmix.attention.guide import Guide, Source
from transmix.labels.area import AreaLabels
from transmix.labels.evidence import Rule
from transmix.labels.object import ObjectLabels
from transmix.labels.progressive import ProgressiveLabels
from transmix.labels.rollout import RolloutLabels
from transmix.labels.semantic import SemanticLabels
from transmix.labels.source import SourceLabels
from transmix.losses import consistency_loss, token_losses
from transmix.mixing.cells import on_patches
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer
from transmix.transmix import TransMix

MIXER = ("prob", "mode", "partner")
"""Settings of `Mixer` that every method takes."""


class _Named(TransMix):
    """What the classes of this file share.

    Args:
        model: any ViT; None where nothing looks at a model.
        guide: who looks at the clean images, in place of `model`: see `TransMix`.
        labels: another label rule than the paper's, by name or itself.
        smoothing: label smoothing.
        generator: where randomness comes from; see `Mixer`.
        settings: of the method and of its label rule, and prob, mode, partner of `Mixer`, by name.

    Raises:
        TypeError: no such setting.
        ValueError, AttentionError: as `TransMix`.
    """

    method: ClassVar[Any]
    rule_type: ClassVar[Any] = AreaLabels

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        guide: Guide | Source | None = None,
        labels: str | Rule | None = None,
        smoothing: float = 0.0,
        generator: torch.Generator | None = None,
        **settings: Any,
    ):
        known = [[field.name for field in fields(kind)] for kind in (self.method, self.rule_type)]
        if unknown := settings.keys() - {*known[0], *known[1], *MIXER}:
            has = ", ".join(dict.fromkeys((*known[0], *known[1], *MIXER)))
            raise TypeError(f"{type(self).__name__} has no setting {min(unknown)!r}; it has {has}")
        of_method, of_rule, of_mixer = (
            {name: settings[name] for name in names if name in settings} for names in (*known, MIXER)
        )
        methods = [on_patches(self.method(**of_method), None if model is None else patch_side(unwrap(model)))]
        mixer = Mixer(**of_mixer, methods=methods, generator=generator)
        if labels is not None and of_rule:
            raise TypeError(f"{', '.join(of_rule)} belong to the labels of {type(self).__name__}, but labels is given")
        rule: str | Rule = self.rule_type(**of_rule) if labels is None else labels
        super().__init__(model, mixer=mixer, labels=rule, smoothing=smoothing, guide=guide)

    def __repr__(self) -> str:
        return super().__repr__().replace("TransMix(", f"{type(self).__name__}(", 1)


class MixPro(_Named):
    """Mix random cells, and weigh attention the more, the better the prediction.

    Settings: alpha, cell (`transmix.mixing.MaskMix`); downsample (`transmix.labels.ProgressiveLabels`).

    Source: Zhao et al., MixPro (ICLR 2023). Differs: lam comes from the pixels that are shown, no gradient flows
    through the label, which is smoothed as any other, and batches are mixed always (the paper: prob=0.5).
    """

    method, rule_type = mixing.MaskMix, ProgressiveLabels


class TLAlign(_Named):
    """Mix a box of patches, and follow the label of each token through the attention of every block.

    Settings: alpha, cell (`transmix.mixing.GridCutMix`).

    Source: Xiao et al., Token-Label Alignment (ICCV 2023). Differs: boxes of odd sides, odd batches and models with
    several prefix tokens work.
    """

    method, rule_type = mixing.GridCutMix, RolloutLabels


class SMMix(_Named):
    """Paste the partner's most attended square onto the own least attended one.

    The loss adds, as published, the token losses and the consistency with the clean images' predictions:

        CE(logits, mixed label) + (CE(own tokens) + CE(pasted tokens)) / 2 + KL(clean mixture || logits)

    Args:
        model: a ViT whose last block attends over all tokens.
        token_head: (..., D) -> (..., K), the authors' extra head for the token losses, whose parameters you give to
            the optimizer; None: the model's own class head.
        mixer: in place of squares alone, such as squares and Mixup in turn; `TransMix` lists further settings then.
        settings: of `transmix.mixing.SMMix` and `Mixer`, guide, smoothing, generator.

    Source: Chen et al., SMMix (ICCV 2023). Differs: the class head is used where the authors train a second one.
    """

    method: ClassVar[Any] = mixing.SMMix
    reads_tokens = True

    def __init__(
        self, model: nn.Module, *, mixer: Mixer | None = None, token_head: nn.Module | None = None, **settings: Any
    ):
        self.token_head = class_head(unwrap(model)) if token_head is None else token_head
        self._tokens: tuple[weakref.ref[Tensor], Tensor] | None = None
        if mixer is None:
            super().__init__(model, **settings)
        else:
            TransMix.__init__(self, model, mixer=mixer, **settings)

    def loss(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the sum of the three losses; as `TransMix.loss` for a batch that is not mixed.

        Raises:
            ValueError: the token head is sharded by FSDP2.
        """
        if self._tokens is None or self._tokens[0]() is not mixed.images:
            mixed = self.relabel(mixed)
        if any(hasattr(weight, "device_mesh") for weight in self.token_head.parameters()):
            raise ValueError(
                "SMMix's token losses need the head's weights after the forward, when FSDP2 has sharded them again: "
                "pass token_head=nn.Linear(D, K), not sharded, and give its parameters to the optimizer"
            )
        loss = super().loss(logits, mixed)
        assert self._tokens is not None
        assert self.attention is not None
        tokens, self._tokens = self._tokens[1], None  # they hold the graph of the whole forward
        smoothing, (_, grid, extent) = getattr(self.criterion, "smoothing", 0.0), self.attention
        # Of a batch without squares these are 0, and the head runs all the same: DDP waits for its gradients.
        loss = loss + token_losses(tokens, mixed, self.token_head, smoothing, grid=grid, extent=extent)
        if mixed.mask is None:
            return loss
        clean = self._look_of(mixed)[0]
        assert clean is not None
        return loss + consistency_loss(logits, clean.logits(), mixed)

    def _took(self, mixed: Mixed, record: Row) -> None:
        assert record.tokens is not None
        self._tokens = weakref.ref(mixed.images), record.tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tokens": None}


class TokenMix(_Named):
    """Mix blocks of tokens; each source's share is what its own clean map has in the tokens that are shown.

    Settings: lam, minimum, cell, kind (`transmix.mixing.TokenMix`); sum_to_one (`transmix.labels.SourceLabels`).

    Source: Liu et al., TokenMix (ECCV 2022). Differs: maps come from the guide and not from a file, and the two
    weights sum to 1 unless sum_to_one=False asks for the published form.
    """

    method, rule_type = mixing.TokenMix, SourceLabels


class AttentiveCutMix(_Named):
    """Keep the cells of each image that its own clean map attends to most; all else comes from the partner.

    Settings: k, cells (`transmix.mixing.AttentiveCutMix`).

    Source: Walawalkar et al., Attentive CutMix (ICASSP 2020). Differs: maps come from the guide.
    """

    method: ClassVar[Any] = mixing.AttentiveCutMix


class SnapMix(_Named):
    """Paste one box of the partner, resized, into another; each share is the evidence that the box covers.

    Settings: alpha (`transmix.mixing.SnapMix`).

    Source: Huang et al., SnapMix (AAAI 2021). Differs: the class token's attention where there is one, and rows whose
    partner has the same class count once.
    """

    method, rule_type = mixing.SnapMix, SemanticLabels


class FMix(_Named):
    """Mix by a mask of random low frequencies.

    Settings: alpha, decay, soft (`transmix.mixing.FMix`).

    Source: Harris et al., FMix (2020). Differs: lam is the mean of the mask that is used, and the spectrum is complex
    as the paper describes it.
    """

    method: ClassVar[Any] = mixing.FMix


class ResizeMix(_Named):
    """Paste the whole partner, resized, into a box.

    Settings: low, high, interpolation (`transmix.mixing.ResizeMix`).

    Source: Qin et al., ResizeMix (2020).
    """

    method: ClassVar[Any] = mixing.ResizeMix


class SaliencyMix(_Named):
    """Paste the box round the most salient place of each row's partner.

    Without a guide saliency is the spectral residual of the pixels; with one, its maps.

    Settings: alpha (`transmix.mixing.SaliencyMix`).

    Source: Uddin et al., SaliencyMix (ICLR 2021). Differs: each row's box comes from its own partner.
    """

    method: ClassVar[Any] = mixing.SaliencyMix


class ObjectMix(_Named):
    """Mix by CutMix; each label's share is what can be seen of its object: tm.mix(images, labels, foreground=masks).

    Settings: alpha, minmax (`transmix.mixing.CutMix`); by, weight (`transmix.labels.ObjectLabels`). For another
    mixing: TransMix(None, mixer=..., labels="object").

    Source: OA-CutMix (arXiv 2606.04820).
    """

    method, rule_type = mixing.CutMix, ObjectLabels


NAMED = {
    "mixpro": MixPro,
    "tlalign": TLAlign,
    "smmix": SMMix,
    "tokenmix": TokenMix,
    "attentivecutmix": AttentiveCutMix,
    "snapmix": SnapMix,
    "fmix": FMix,
    "resizemix": ResizeMix,
    "saliencymix": SaliencyMix,
    "objectmix": ObjectMix,
}
"""Name in recipes and on the command line -> class for the three lines."""
