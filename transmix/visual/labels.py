"""Labels of mixed images by any rule of the table, for figures: with the evidence that a training step would have."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from transmix.attention import AttentionReader, attention_maps
from transmix.attention.eval_mode import eval_mode
from transmix.attention.rollout import Rollout
from transmix.labels import ControlLabels
from transmix.labels.evidence import Evidence, Rule
from transmix.mixing import Mixed
from transmix.recipes.mixing import build_rule
from transmix.recipes.settings import Mixing


def trained_rule(mixing: Mixing) -> Rule:
    """Return the label rule of a run; one that smooths labels does so as the run's loss.

    Raises:
        RecipeError: no such rule, or a setting that it does not have or take.
    """
    return smoothed(build_rule(mixing), mixing)


def smoothed(rule: Rule, mixing: Mixing) -> Rule:
    """Return a rule whose smoothing, where it leaves that to the loss, is that of a run."""
    if getattr(rule, "smoothing", 0.0) is not None:
        return rule
    return replace(rule, smoothing=mixing.smoothing)  # type: ignore[type-var]


NO_MASKS = "it needs masks of the objects"


def why_not(rule: Rule, classes: bool, no_masks: str = NO_MASKS) -> str:
    """Return why a rule cannot label images that are only looked at; empty if it can.

    Args:
        rule: the rule.
        classes: whether the classes of both images are known.
        no_masks: why there are no masks of the objects; empty if there are.
    """
    if isinstance(rule, ControlLabels):
        return "it gives a row what belongs to another, and one pair has no other row"
    if "foreground" in rule.needs and no_masks:
        return no_masks
    if "logits" in rule.needs and not classes:
        return "it compares the prediction with the classes of both images, which are not known"
    return ""


def gather(model: nn.Module, needs: Sequence[str], mixed: Tensor, clean: Tensor) -> Evidence:
    """Run a model in evaluation mode and return the evidence that a rule needs, on the model's device.

    Args:
        model: Any model that `AttentionReader` supports.
        needs: Names of `transmix.labels.evidence.KINDS`, without "foreground".
        mixed: (B, C, H, W), the mixed images, normalised for the model.
        clean: The same before mixing.

    Raises:
        AttentionError: The model does not give this evidence.
    """
    reader = AttentionReader(model, training=False, eval=True, every_block="rollout" in needs)
    with reader, eval_mode(model), torch.no_grad():
        logits = model(mixed)
        attention, record = reader.take_record(mixed)
        found = Evidence(attention=attention, logits=logits)
        if "rollout" in needs:
            _, grid, extent = attention
            found = replace(found, rollout=Rollout(record.blocks, record.prefix, grid, extent, slice(None)))
        if "clean" in needs:
            model(clean)
            found = replace(found, clean=reader.take(clean))
    return replace(found, maps=torch.stack(attention_maps(model, mixed), dim=1)) if "maps" in needs else found


def label(mixed: Mixed, rule: Rule, evidence: Evidence) -> Mixed:
    """Return a batch with its labels by a rule.

    Raises:
        AttentionError: The evidence does not carry so far, as rollout through windows.
    """
    return rule(replace(mixed, lam=mixed.lam_area, lam_partner=None, lam_evidence=None), evidence)


def own_share(mixed: Mixed) -> Tensor:
    """Return the own label's part of both weights, (B,)."""
    if mixed.lam_partner is None:
        return mixed.lam
    return mixed.lam / (mixed.lam + mixed.lam_partner).clamp(min=1e-12)
