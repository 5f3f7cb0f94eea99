"""The mixing methods and label rules that the page offers for a model, and why the others are not offered."""

from typing import Any

from torch import nn

from transmix import plugins
from transmix.attention import AttentionError, AttentionReader
from transmix.attention.find import patch_side
from transmix.attention.guide import Guide
from transmix.labels import RULES, AreaLabels, AttentionLabels
from transmix.labels.evidence import Rule
from transmix.methods import NAMED
from transmix.mixing import METHODS
from transmix.mixing.cells import on_patches
from transmix.mixing.mixer import looks_at
from transmix.recipes.mixing import build_mixer, rule_name
from transmix.recipes.settings import Mixing
from transmix.visual.labels import smoothed, trained_rule, why_not


def find_methods(model: nn.Module, mixing: Mixing) -> tuple[dict[str, Any], dict[str, str]]:
    """Return name -> method, with the run's settings where the run uses it, and name -> why it is not served."""
    side = patch_side(model)
    own = {type(method): method for method in build_mixer(mixing, side).methods}
    found, never = {}, {}
    for name in plugins.names("method", METHODS):
        kind = plugins.find("method", METHODS, name)
        if looks_at(kind) == "patches":
            try:
                Guide(model, patches=True).detach()
            except AttentionError as error:
                never[name] = str(error)
                continue
        found[name] = own.get(kind) or on_patches(kind(), side)
    return found, never


def find_rules(mixing: Mixing) -> tuple[dict[str, Rule], dict[str, str]]:
    """Return name -> rule and name -> a few words about it.

    "attention" is attention alone, "trained" the run's own rule; then the rest of the table with its defaults, and
    "transmix", the paper's mean, where the run trains by another.
    """
    trained, papers = trained_rule(mixing), {kind.rule_type: kind.__name__ for kind in NAMED.values()}
    rules: dict[str, Any] = {"area": AreaLabels(), "attention": AttentionLabels(weight=1.0), "trained": trained}
    rules |= {} if trained == AttentionLabels() else {"transmix": AttentionLabels()}
    rest = {name: smoothed(plugins.make("rule", RULES, name, {}), mixing) for name in plugins.names("rule", RULES)}
    rules |= {name: rule for name, rule in rest.items() if name not in rules and rule != trained}
    notes = {name: papers.get(type(rule), "" if rule.needs else "looks at nothing") for name, rule in rules.items()}
    weight, by = getattr(trained, "weight", None), rule_name(mixing)
    of_trained = f"by {by}" if weight in (None, 1) else f"{weight:.0%} {by}"
    notes |= {"area": "CutMix", "attention": "alone", "trained": of_trained}
    return rules, notes | ({"transmix": "50% attention"} if "transmix" in rules else {})


def unserved(model: nn.Module, rules: dict[str, Rule], no_masks: str) -> tuple[dict[str, str], bool]:
    """Return rule -> why it is not served for any image, and whether labels can be followed from block to block.

    Args:
        model: The model.
        rules: Name -> rule.
        no_masks: Why there are no masks of the objects; empty if there are.
    """
    never = {name: reason for name, rule in rules.items() if (reason := why_not(rule, True, no_masks))}
    try:
        AttentionReader(model, training=False, every_block=True).detach()
    except AttentionError as error:
        return never | {name: str(error) for name, rule in rules.items() if "rollout" in rule.needs}, False
    return never, True
