"""TransMix in any training loop: mix a batch, run the model, weigh the labels by its attention."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from transmix import plugins
from transmix.attention.attach import Row
from transmix.attention.error import AttentionError
from transmix.attention.find import unwrap
from transmix.attention.guide import Guide, Look, Source
from transmix.attention.maps import attention_maps
from transmix.attention.reader import Attention, AttentionReader
from transmix.attention.receptive_field import receptive_shift
from transmix.attention.rollout import Rollout
from transmix.labels.area import AreaLabels
from transmix.labels.evidence import KINDS, Evidence, Rule
from transmix.labels.patches import FROM_MODEL
from transmix.labels.rules import RULES
from transmix.losses import MixedCrossEntropy
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer, looks_at

IN_STEP = {"attention", "rollout"}
"""Evidence that the forward on the mixed images leaves."""

BEFORE = {"clean", "foreground"}
"""Evidence that is there before the batch is mixed."""

KEPT = 4
"""Batches that may be mixed before the first of them is relabelled, where a rule has evidence from before."""


class TransMix:
    """Any mixing with any label rule; by default Mixup and CutMix, box labels by what the class token attends to.

    Args:
        model: any ViT that `AttentionReader` can read; it is not changed. Wrapped, compiled or neither. None where the
            rule looks at no model.
        mixer: how images are mixed; None: a `Mixer` of the settings below.
        labels: the rule that weighs the labels: a name in `transmix.labels.RULES`, one that an installed package
            adds, or a rule itself.
        smoothing: label smoothing, y * (1 - s) + s / K.
        weight: of rules that have it, the share of their evidence against area in the label; of "attention" 0.5, the
            paper's.
        downsample: of "attention", how the mask comes down to patches, "nearest" (the paper) or "fraction".
        labels_options: other settings of the rule, by name.
        criterion: loss (logits, Mixed) -> scalar, in place of cross-entropy with `smoothing`.
        guide: who looks at the clean images, for methods and rules that need their maps: another model (an EMA, a
            teacher), or a function (images, labels) -> maps (B, h, w). None: `model` itself.
        module: where the class attention is, for models that `AttentionReader` does not know.
        prefix_tokens: how many tokens come before the patches, for such models.
        grid: (h, w) of the patches, for such models.
        settings: parameters of `Mixer`: mixup_alpha, cutmix_alpha, prob, switch_prob, mode, generator, ...

    Attributes:
        mixer: draws how a batch is mixed; `mixer.enabled` turns mixing off.
        rule: weighs the labels.
        reader: of the model's attention; None where the rule does not look at it.
        guide: gives maps of the clean images; None where nothing looks at them.
        attention: what the last `relabel` read; None before.

    Raises:
        AttentionError: the model's attention cannot be read.
        ValueError: a parameter out of its range, a name that no rule has, or settings under which the rule would
            change nothing.
        TypeError: a setting that rule or mixer does not have.

    Example:
        >>> tm = TransMix(model, smoothing=0.1)
        >>> for images, labels in loader:
        ...     mixed = tm.mix(images, labels)
        ...     loss = tm.loss(model(mixed.images), mixed)

    Source: Chen et al., TransMix (CVPR 2022).
    """

    reads_tokens: ClassVar = False
    """Whether the loss needs the patches' tokens; methods with losses of their own say so."""

    def __init__(
        self,
        model: nn.Module | None,
        *,
        mixer: Mixer | None = None,
        labels: str | Rule = "attention",
        smoothing: float = 0.0,
        weight: float | None = None,
        downsample: str | None = None,
        labels_options: Mapping[str, Any] | None = None,
        criterion: Callable[[Tensor, Mixed], Tensor] | None = None,
        guide: Guide | Source | None = None,
        module: nn.Module | str | None = None,
        prefix_tokens: int | None = None,
        grid: tuple[int, int] | None = None,
        **settings: Any,
    ):
        if mixer is not None and settings:
            raise TypeError(f"mixer brings its own settings; give it {', '.join(settings)}, not TransMix")
        self.mixer = Mixer(**settings) if mixer is None else mixer
        self.criterion = MixedCrossEntropy(smoothing) if criterion is None else criterion
        given = {"weight": weight, "downsample": downsample}
        options = {name: value for name, value in given.items() if value is not None} | dict(labels_options or {})
        self.name, self.rule = make_rule(labels, options)
        self.rule = looking_at(self.rule, model if guide is None or "attention" in self.rule.needs else guide)
        if reason := why_nothing_changes(self.mixer, self.rule):
            raise ValueError(f"{title(self.name)} would change nothing: {reason}")
        place = {"module": module, "prefix_tokens": prefix_tokens, "grid": grid}
        self.reader = self._read(model, place)
        try:
            self.guide = self._guided_by(model, guide, place)
        except (AttentionError, ValueError):
            if self.reader is not None:  # the model is as it was, and can be given to another method
                self.reader.detach()
            raise
        self.attention: Attention | None = None
        self._before: list[tuple[weakref.ref[Tensor], Look | None, Tensor | None]] = []

    def __repr__(self) -> str:
        methods = " or ".join(type(method).__name__ for method in self.mixer.methods)
        read = "" if self.reader is None else f", reads {self.reader.name!r}"
        return f"TransMix({methods}, labels by {self.rule}{read})"

    def mix(self, images: Tensor, labels: Tensor, *, foreground: Tensor | None = None) -> Mixed:
        """Mix a batch; labels by area until `relabel`.

        Args:
            images: (B, C, H, W), as in `Draw.apply`.
            labels: (B,) or (B, K), as there.
            foreground: (B, H, W) bool or float, the objects in `images`, for rules that need it.

        Raises:
            ValueError: shapes that do not fit, or a rule that needs the foreground without one.
        """
        if "foreground" in self.rule.needs and foreground is None:
            raise ValueError(
                f"labels {self.name!r} need masks of the objects: tm.mix(images, labels, foreground=masks)"
            )
        if foreground is not None and tuple(foreground.shape) != (len(images), *images.shape[-2:]):
            raise ValueError(f"foreground must be (B, H, W) of the images, not {tuple(foreground.shape)}")
        look = None if self.guide is None else self.guide.look(images, labels)
        mixed = self.mixer(images, labels, look)
        if look is not None and mixed.mask is not None and self._needs_clean():
            look.run()  # now: the next optimizer step changes the weights that look
        if self.reader is not None:
            self.reader.clear(images)
        if look is not None or foreground is not None:
            self._before = [*self._before[1 - KEPT :], (weakref.ref(mixed.images), look, foreground)]
        return mixed

    def relabel(self, mixed: Mixed, *, logits: Tensor | None = None, rows: slice | None = None) -> Mixed:
        """Weigh the labels by the rule. Takes the attention row of the forward on `mixed.images`, if the rule needs it.

        Args:
            mixed: the batch; other forwards of the model may have come before or since.
            logits: (B, K), the model's output for it, for rules that need it.
            rows: where the batch stands in what the model was given, if that was more: slice(0, B) after
                `model(torch.cat([mixed.images, clean]))`.

        Raises:
            AttentionError: no attention that is known to be that of `mixed.images`; see `AttentionReader.take`.
            ValueError: the rule needs logits and was given none, or looks at the images before mixing and this batch
                is none of the last that `mix` made.
        """
        needs = self.rule.needs
        if "logits" in needs and logits is None:
            raise ValueError(f"labels {self.name!r} look at the logits: tm.relabel(mixed, logits=logits)")
        evidence = self._from_before(mixed) if BEFORE & set(needs) else Evidence()
        if self.reader is not None and self.reader.training:
            self.attention, record = self.reader.take_record(mixed.images, rows)
            evidence = replace(evidence, attention=self.attention)
            if "rollout" in needs:
                _, grid, extent = self.attention
                evidence = replace(
                    evidence, rollout=Rollout(record.blocks, record.prefix, grid, extent, rows or slice(None))
                )
            self._took(mixed, record)
        if self.reader is not None and "maps" in needs:
            evidence = replace(evidence, maps=torch.stack(attention_maps(self.reader.model, mixed.images), dim=1))
        if logits is not None and "logits" in needs:
            evidence = replace(evidence, logits=logits.detach())
        # Undo an earlier rule first: rules compute from lam_area, so labelling twice gives the same label.
        fresh = replace(mixed, lam=mixed.lam_area, lam_partner=None, lam_evidence=None)
        # Nobody has looked at the clean images of a batch without a mask: its labels are the area's by any rule.
        labelled = fresh if mixed.mask is None and self._needs_clean() else self._rule_now()(fresh, evidence)
        if labelled.lam.shape != mixed.lam_area.shape:
            raise ValueError(
                f"labels {self.name!r} gave weights {tuple(labelled.lam.shape)} for {len(mixed.labels)} rows"
            )
        return replace(labelled, rule=self.name)

    def loss(self, logits: Tensor, mixed: Mixed) -> Tensor:
        """Return the loss of (B, K) logits against the labels by the rule; relabels unless that is done."""
        if mixed.rule != self.name:
            mixed = self.relabel(mixed, logits=logits) if "logits" in self.rule.needs else self.relabel(mixed)
        return self.criterion(logits, mixed)

    def detach(self) -> None:
        """Stop reading the model, and leave it as it was."""
        for reads in (self.reader, self.guide):
            if reads is not None:
                reads.detach()

    def __getstate__(self) -> dict[str, Any]:
        # Attention and evidence of batches that are not finished belong to this process and this model.
        return {**self.__dict__, "attention": None, "_before": []}

    def _read(self, model: nn.Module | None, place: dict[str, Any]) -> AttentionReader | None:
        """Return a reader of the model in training, where the rule looks at its forward on the mixed images."""
        needs = set(self.rule.needs)
        if not (needs & {*IN_STEP, "maps"} or self.reads_tokens):
            return None
        if model is None:
            raise ValueError(f"labels {self.name!r} look at the model: TransMix(model, ...)")
        training = bool(needs & IN_STEP) or self.reads_tokens
        return AttentionReader(
            model, **place, training=training, every_block="rollout" in needs, tokens=self.reads_tokens
        )

    def _guided_by(self, model: nn.Module | None, guide: Guide | Source | None, place: dict[str, Any]) -> Guide | None:
        """Return who looks at the clean images, where a method or the rule needs to."""
        kinds = {kind for method in self.mixer.methods if (kind := looks_at(method))}
        if guide is None and not (kinds - {"saliency"} or self._needs_clean()):
            return None  # saliency comes from the pixels where nobody is there to look
        if not (kinds or self._needs_clean()):
            raise ValueError("guide is given, but neither the method nor the label rule needs maps of the clean images")
        if isinstance(guide, Guide):
            return guide
        source = model if guide is None else guide
        if source is None:
            raise ValueError("the method or its labels need maps of the clean images: give a model, or guide=")
        own = unwrap(source) is unwrap(model) if isinstance(source, nn.Module) and model is not None else False
        return Guide(source, self.reader if own else None, "patches" in kinds, **(place if own else {}))

    def _needs_clean(self) -> bool:
        return "clean" in self.rule.needs

    def _rule_now(self) -> Rule:
        """Return the rule; one with smoothing None compares predictions with labels smoothed as in the loss."""
        if getattr(self.rule, "smoothing", 0.0) is not None:
            return self.rule
        return replace(self.rule, smoothing=getattr(self.criterion, "smoothing", 0.0))  # type: ignore[type-var]

    def _took(self, mixed: Mixed, record: Row) -> None:
        """Do more with what the forward on a mixed batch left; methods with losses of their own do."""

    def _look_of(self, mixed: Mixed) -> tuple[Look | None, Tensor | None]:
        """Return the maps and the foreground of the images that a batch was mixed from."""
        for images, look, foreground in self._before:
            if images() is mixed.images:
                return look, foreground
        raise ValueError(
            f"{title(self.name)} needs the images before mixing, but this batch is none of the last {KEPT} that "
            f"tm.mix returned: pass the record that it returned"
        )

    def _from_before(self, mixed: Mixed) -> Evidence:
        look, foreground = self._look_of(mixed)
        clean = look.maps() if look is not None and mixed.mask is not None and self._needs_clean() else None
        return Evidence(clean=clean, foreground=foreground)


def make_rule(labels: str | Rule, options: Mapping[str, Any]) -> tuple[str, Rule]:
    """Return a rule and its name, of a name with settings or of a rule.

    Raises:
        ValueError: no rule has this name, a setting is out of its range, or the rule needs what nobody gives.
        TypeError: the rule has no such setting, or is no rule.
    """
    name = labels if isinstance(labels, str) else getattr(labels, "__name__", type(labels).__name__)
    if isinstance(labels, str):
        rule = plugins.make("rule", RULES, labels, options)
    else:
        rule = labels
        name = next((known for known, kind in RULES.items() if type(rule) is kind), name)
        if options:
            raise TypeError(f"{name} brings its own settings; give it {', '.join(options)}")
    needs = getattr(rule, "needs", None)
    if needs is None or isinstance(needs, str) or not callable(rule) or isinstance(rule, type):
        raise TypeError(
            f"a label rule is called with (mixed, evidence) and says what it needs, a tuple of names; {name} does not"
        )
    if unknown := set(needs) - KINDS.keys():
        raise ValueError(f"{name} needs {', '.join(sorted(unknown))}; there is {', '.join(KINDS)}")
    return name, rule  # type: ignore[return-value]


def looking_at(rule: Rule, model: Any) -> Rule:
    """Return a rule whose shift is found from the model that it looks at, where it asks for that.

    Raises:
        AttentionError: it is not known where the model's tokens look.
    """
    if getattr(rule, "shift", 0) != FROM_MODEL:
        return rule
    model = getattr(model, "source", model)  # of a `Guide`
    if not isinstance(model, nn.Module):
        raise AttentionError("shift='model' needs a model that looks; where maps come from elsewhere, give pixels")
    return replace(rule, shift=receptive_shift(model))  # type: ignore[type-var]


def why_nothing_changes(mixer: Mixer, rule: Rule) -> str | None:
    """Return why a rule would leave every label to the area; None if it would not, or if it is the area's rule."""
    if isinstance(rule, AreaLabels):
        return None
    if getattr(rule, "weight", None) == 0:
        return "weight 0 leaves the label to the area"
    if getattr(rule, "slope", None) == 1:
        return "slope 1 leaves the label to the area"
    if mixer.prob == 0:
        return "prob 0 mixes no batch"
    if not any(has_mask(method) for method, _ in mixer.chances):
        return "without CutMix (cutmix_alpha 0) no image has a box"
    if not any(map(has_mask, mixer.methods)):
        return "with switch_prob 0 every mixed batch is Mixup, which has no box"
    return None


def has_mask(method: Any) -> bool:
    """Whether a method knows which pixels are the partner's; a method that blends whole images does not."""
    return getattr(method, "has_mask", True)


def label_shift(mixed: Mixed) -> dict[str, Tensor]:
    """Return how far a rule moved the labels of a relabelled batch, as scalars on its device.

    Returns:
        "label_shift": mean |lam_area - lam| over the rows with a mask (0 without any);
        "empty_boxes": how many partners got less than a tenth of their area by the rule's evidence alone;
        "boxes": how many rows have a mask.
    """
    if mixed.mask is None:
        nothing = mixed.lam.new_zeros(())
        return {"label_shift": nothing, "empty_boxes": nothing, "boxes": nothing}
    has_box = mixed.mask.flatten(1).any(1).expand(len(mixed.lam))
    share = 1 - (mixed.lam if mixed.lam_evidence is None else mixed.lam_evidence)
    empty = has_box & (share < 0.1 * (1 - mixed.lam_area))
    boxes = has_box.sum()
    shift = ((mixed.lam_area - mixed.lam).abs() * has_box).sum() / boxes.clamp(min=1)
    return {"label_shift": shift, "empty_boxes": empty.sum(), "boxes": boxes}


def title(name: str) -> str:
    """Return what labels by a rule are called in messages."""
    return "TransMix" if name == "attention" else f"labels {name!r}"
