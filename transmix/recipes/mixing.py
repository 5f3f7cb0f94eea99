"""What the section `mixing` of a recipe means: a mixer, a label rule, a loss; and what a mix is called."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from transmix import plugins
from transmix.error import RecipeError
from transmix.labels.evidence import Rule
from transmix.labels.rules import RULES
from transmix.losses import MixedBCE, MixedCrossEntropy
from transmix.methods import NAMED
from transmix.mixing.cells import on_patches
from transmix.mixing.methods import METHODS
from transmix.mixing.mixer import Method, Mixer
from transmix.recipes.settings import Mixing, Recipe
from transmix.transmix import make_rule


def _name_of(table: Mapping[str, Any], entry: Any) -> str:
    return next(name for name, one in table.items() if one is entry)


ALIASES = {"transmix": ("mixup+cutmix", "attention")} | {
    name: both
    for name, kind in NAMED.items()
    if (both := (_name_of(METHODS, kind.method), _name_of(RULES, kind.rule_type))) != (name, "area")
}
"""What stands for a mix and a label rule together: the only name for both."""

SWITCH = ("mixup", "cutmix")
"""The methods of timm's switch, whose settings are keys of their own."""


def resolved(recipe: Recipe) -> Recipe:
    """Return a recipe that says mix and labels apart, with every setting of its label rule.

    Two recipes that train the same way are equal so. A rule that is not installed here keeps the settings it has.
    """
    mixing = recipe.mixing
    mix, labels = mix_and_labels(mixing.mix, mixing.labels)
    # Settings of TransMix's labels in a recipe that another --mix overrides mean nothing, and do no harm.
    options = dict(mixing.labels_options) if labels else {}
    with suppress(ValueError, TypeError):
        settings = asdict(make_rule(labels or "area", options)[1])  # type: ignore[call-overload]
        options = {name: value for name, value in settings.items() if value is not None}  # None is the default's word
    return replace(recipe, mixing=replace(mixing, mix=mix, labels=labels or "area", labels_options=options))


def mix_and_labels(mix: str, labels: str | None) -> tuple[str, str | None]:
    """Return mix and labels of what a recipe says, without aliases; labels None where it says nothing of them."""
    mix, by_alias = ALIASES.get(mix, (mix, None))
    mix = "+".join(SWITCH) if sorted(mix.split("+")) == sorted(SWITCH) else mix  # the switch, in whichever order
    return mix, labels or by_alias


def rule_name(mixing: Mixing) -> str:
    """Return the name of the label rule that a recipe means."""
    return mix_and_labels(mixing.mix, mixing.labels)[1] or "area"


def title(mix: str, labels: str | None) -> str:
    """Return what a mix with its labels is called, in tables and as --baseline."""
    mix, labels = mix_and_labels(mix, labels)
    alias = {both: name for name, both in ALIASES.items()}.get((mix, labels or "area"))
    return alias or (mix if labels in (None, "area") else f"{mix} by {labels}")


def mixes_in(mixing: Mixing, epoch: int) -> bool:
    """Whether batches of an epoch, counted from 0, are mixed."""
    return (
        mixing.mix != "none" and mixing.mix_start <= epoch and (mixing.mix_epochs is None or epoch < mixing.mix_epochs)
    )


def find_rule(mixing: Mixing) -> Any:
    """Return the label rule that a recipe names, without its settings.

    Raises:
        RecipeError: no such rule.
    """
    try:
        return plugins.find("rule", RULES, rule_name(mixing))
    except ValueError as error:
        raise RecipeError(f"labels: {error}") from error


def build_rule(mixing: Mixing) -> Rule:
    """Return the label rule of a recipe.

    Raises:
        RecipeError: no such rule, or a setting that it does not have or take.
    """
    name = rule_name(mixing)
    options = mixing.labels_options if name != "area" or mixing.labels else {}
    try:
        return make_rule(name, options)[1]
    except (ValueError, TypeError) as error:
        raise RecipeError(f"labels: {error}") from error


def build_mixer(mixing: Mixing, patch: int | None = None) -> Mixer:
    """Return the mixer of a recipe; for 'none' one that mixes nothing.

    Args:
        mixing: section of the recipe.
        patch: side of the model's patches in pixels, for methods that mix whole patches; None: unknown.

    Raises:
        RecipeError: no such method, or a setting that none has or takes.
    """
    mix = mix_and_labels(mixing.mix, mixing.labels)[0]
    names, common = mix.split("+"), {"prob": mixing.prob, "mode": mixing.mode, "partner": mixing.partner}
    try:
        if mix == "none":
            if mixing.mix_options or mixing.mix_weights:
                raise ValueError("mix none has no mix_options and no mix_weights")
            return Mixer(prob=0.0)
        if unused := _unused(mixing, names):
            raise ValueError(unused)
        if set(names) <= set(SWITCH) and len(names) == len(set(names)):
            mixup_alpha = mixing.mixup_alpha if "mixup" in names else 0.0
            cutmix = (mixing.cutmix_alpha, mixing.cutmix_minmax) if "cutmix" in names else (0.0, None)
            switch = {"switch_prob": mixing.switch_prob, "correct_lam": mixing.correct_lam}
            return Mixer(mixup_alpha, *cutmix, **common, **switch)
        methods = [on_patches(_method(mixing, name, alone=len(names) == 1), patch) for name in names]
        weights = [_weight(mixing, name) for name in names]
        return Mixer(**common, methods=list(zip(methods, weights, strict=True)))
    except (ValueError, TypeError) as error:
        raise RecipeError(f"mix: {error}") from error


def build_criterion(mixing: Mixing, class_weights: Tensor | None = None) -> MixedCrossEntropy | MixedBCE:
    """Return the loss of a recipe; (K,) weights of the classes are for the cross-entropy alone."""
    if mixing.loss == "bce":
        return MixedBCE(mixing.smoothing, mixing.bce_threshold)
    return MixedCrossEntropy(mixing.smoothing, class_weights=class_weights)


def _weight(mixing: Mixing, name: str) -> float:
    value = mixing.mix_weights.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"mix_weights {name} must be a number, not {value!r}")
    return float(value)


def _method(mixing: Mixing, name: str, alone: bool) -> Method:
    if name == "mixup":
        return METHODS[name](mixing.mixup_alpha)
    if name == "cutmix":
        return METHODS[name](mixing.cutmix_alpha, mixing.cutmix_minmax, mixing.correct_lam)
    return plugins.make("method", METHODS, name, _options_of(mixing.mix_options, name, alone))


def _options_of(options: Mapping[str, Any], name: str, alone: bool) -> dict[str, Any]:
    own = {key.removeprefix(f"{name}."): value for key, value in options.items() if key.startswith(f"{name}.")}
    return own | ({key: value for key, value in options.items() if "." not in key} if alone else {})


def _unused(mixing: Mixing, names: list[str]) -> str | None:
    """Say which setting belongs to none of the methods; None if all do."""
    for name in names:
        plugins.find("method", METHODS, name)  # an unknown method is the first thing to say
    if len(names) != len(set(names)):
        return f"{mixing.mix} names a method twice"
    others = [name for name in names if name not in SWITCH]
    for key in mixing.mix_options:
        owner, dot, _ = key.partition(".")
        if not (owner in others if dot else len(names) == 1 and others):
            wanted = f"write {others[0]}.{key}" if others and not dot else f"name one of {', '.join(others)}"
            of_switch = "Mixup and CutMix have keys of their own: mixup_alpha, cutmix_alpha, cutmix_minmax, correct_lam"
            return f"mix_options {key} belongs to no method of {mixing.mix}; {wanted if others else of_switch}"
    for name in mixing.mix_weights:
        if name not in names or not others:
            return f"mix_weights {name}: of mixup and cutmix alone give switch_prob; else name one of {mixing.mix}"
    return None
