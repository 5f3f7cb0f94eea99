"""Reject contradictory or meaningless settings before anything is loaded."""

import math
from collections.abc import Callable
from typing import Any

from transmix.error import RecipeError
from transmix.recipes.mixing import build_mixer, build_rule, rule_name
from transmix.recipes.settings import Mixing, Recipe, flat, parse_cadence
from transmix.transmix import title, why_nothing_changes

RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("image_size epochs batch_size accumulate repeats train_images", "must be at least 1", lambda value: value >= 1),
    ("log_every eval_every keep_checkpoints max_nonfinite max_steps", "must be at least 1", lambda value: value >= 1),
    ("threads lr_batch patience", "must be at least 1", lambda value: value >= 1),
    ("max_bad_images workers pad color_jitter", "must be at least 0", lambda value: value >= 0),
    ("mix_epochs mix_start cooldown_epochs warmup_epochs", "must be at least 0", lambda value: value >= 0),
    ("lr min_lr warmup_lr weight_decay", "must be a number of at least 0", lambda value: 0 <= value < math.inf),
    ("mixup_alpha cutmix_alpha cache_gb", "must be a number of at least 0", lambda value: 0 <= value < math.inf),
    ("wait_minutes eps clip_grad layer_decay std", "must be a number above 0", lambda value: 0 < value < math.inf),
    ("smoothing ema_decay drop_path betas", "must lie in [0, 1)", lambda value: 0 <= value < 1),
    ("prob switch_prob flip random_erasing", "is a probability", lambda value: 0 <= value <= 1),
    ("eval_crop", "is a fraction in (0, 1]", lambda value: 0 < value <= 1),
)
"""Settings, what each of their values must be, and the same as a test that NaN fails. None is always allowed."""


def check_recipe(recipe: Recipe) -> None:
    """Reject contradictory settings and invalid numbers before anything is loaded.

    Raises:
        RecipeError: an invalid setting; the message gives the remedy.
    """
    if recipe.data.data is None:
        raise RecipeError("no data: give --data digits, or a folder of images, CIFAR files or Parquet shards")
    values = flat(recipe)
    for names, demand, holds in RANGES:
        for name in names.split():
            parts = values[name] if isinstance(values[name], tuple) else (values[name],)
            if wrong := [part for part in parts if part is not None and not holds(part)]:
                raise RecipeError(f"{name} {demand}, not {wrong[0]}")
    check_grey_range(recipe.data.grey_range)
    try:
        parse_cadence(recipe.run.checkpoint_every)
    except ValueError as error:
        raise RecipeError(f"checkpoint_every {error}") from error
    for name, most in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
        low, high = values[name]
        if not 0 < low <= high <= most:
            limit = " and at most 1" if most == 1 else ""
            raise RecipeError(f"{name} needs two numbers above 0{limit}, the lower first, not {low:g} {high:g}")
    for problem, holds in _contradictions(recipe).items():
        if holds:
            raise RecipeError(problem)
    _check_labels(recipe.mixing, recipe.optimization.epochs + recipe.optimization.cooldown_epochs)


def _contradictions(recipe: Recipe) -> dict[str, bool]:
    """Return message -> whether it applies, for settings that contradict each other."""
    mixing, warmup, epochs = recipe.mixing, recipe.optimization.warmup_epochs, recipe.optimization.epochs
    alphas = {"mixup": mixing.mixup_alpha, "cutmix": mixing.cutmix_alpha or mixing.cutmix_minmax}
    nothing = mixing.mix == "mixup+cutmix" and not any(alphas.values())
    bce = mixing.loss == "bce"
    unused = mixing.bce_threshold is not None and not bce
    return {
        f"warmup_epochs {warmup} exceeds epochs {epochs}": warmup > epochs,
        f"{mixing.mix}_alpha 0 turns off what --mix {mixing.mix} asks for": not alphas.get(mixing.mix, True),
        "mixup_alpha and cutmix_alpha are both 0: nothing to mix with; use --mix none": nothing,
        "guide ema needs --ema-decay: without it there is no EMA": mixing.guide == "ema"
        and not recipe.optimization.ema_decay,
        f"bce_threshold needs --loss bce, but the loss is {mixing.loss}": unused,
        "balance loss weighs the classes of a softmax cross-entropy, and the loss is bce; give --balance sampler": bce
        and recipe.data.balance == "loss",
    }


def check_grey_range(grey: tuple[float, float] | None) -> None:
    """Check a grey range.

    Raises:
        RecipeError: black is not below white, or one is not finite.
    """
    if grey is not None and not -math.inf < grey[0] < grey[1] < math.inf:
        raise RecipeError(f"grey_range needs two numbers, black below white, not {grey[0]:g} {grey[1]:g}")


def _check_labels(mixing: Mixing, epochs: int) -> None:
    """Reject an unknown mix or label rule, and a rule whose labels would equal those by area."""
    mixer, rule = build_mixer(mixing), build_rule(mixing)
    name = rule_name(mixing)
    if name == "area":
        return
    last = epochs if mixing.mix_epochs is None else min(mixing.mix_epochs, epochs)
    reasons = {
        "mix none mixes no batch": mixing.mix == "none",
        "mix_epochs 0 mixes no batch": mixing.mix_epochs == 0,
        f"mix_start {mixing.mix_start} leaves none of {last} epochs to mix in": mixing.mix_start >= last,
        "bce_threshold makes targets 0 or 1, so how much of a label each image gets is lost": mixing.bce_threshold
        is not None,
    }
    reason = next((text for text, holds in reasons.items() if holds), None) or why_nothing_changes(mixer, rule)
    if reason:
        raise RecipeError(
            f"{title(name)} would change nothing here: {reason}. Change that, or train with other --labels (or --mix)"
        )
