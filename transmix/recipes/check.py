"""Settings that contradict each other or mean nothing, refused before anything is loaded."""

from transmix.error import RecipeError
from transmix.recipes.cadence import parse_cadence
from transmix.recipes.mixing import build_mixer, build_rule, rule_name
from transmix.recipes.settings import Mixing, Recipe
from transmix.transmix import why_nothing_changes


def check_recipe(recipe: Recipe) -> None:
    """Refuse settings that contradict each other, before anything is loaded.

    Raises:
        RecipeError: the setting and what to do about it.
    """
    data, augmentation, optimization = recipe.data, recipe.augmentation, recipe.optimization
    if data.data is None:
        raise RecipeError("no data: give --data digits, or a folder of images, CIFAR files or Parquet shards")
    _check_counts(recipe)
    try:
        parse_cadence(recipe.run.checkpoint_every)
    except ValueError as error:
        raise RecipeError(f"checkpoint_every {error}") from error
    if data.on_device and augmentation.rand_augment is not None:
        raise RecipeError(
            "on_device augments whole batches, which rand_augment cannot; give --rand-augment None, or leave "
            "--on-device out"
        )
    check_grey_range(data.grey_range)
    if optimization.warmup_epochs > optimization.epochs:
        raise RecipeError(f"warmup_epochs {optimization.warmup_epochs} exceeds epochs {optimization.epochs}")
    _check_shares(recipe)
    if not 0 < recipe.run.wait_minutes < float("inf"):
        raise RecipeError(f"wait_minutes must be a number above 0, not {recipe.run.wait_minutes}")
    _check_amounts(recipe)
    _check_mixing(recipe.mixing)
    _check_ranges(recipe)
    _check_labels(recipe.mixing, optimization.epochs + optimization.cooldown_epochs)


def _check_counts(recipe: Recipe) -> None:
    data, optimization, run = recipe.data, recipe.optimization, recipe.run
    for name, value in {
        "image_size": data.image_size,
        "epochs": optimization.epochs,
        "batch_size": optimization.batch_size,
        "accumulate": optimization.accumulate,
        "repeats": recipe.augmentation.repeats,
        "log_every": run.log_every,
        "eval_every": run.eval_every,
        "keep_checkpoints": run.keep_checkpoints,
        "max_nonfinite": run.max_nonfinite,
    }.items():
        if value < 1:
            raise RecipeError(f"{name} must be at least 1, not {value}")
    if data.max_bad_images < 0:
        raise RecipeError(f"max_bad_images must be at least 0, not {data.max_bad_images}")


def _check_shares(recipe: Recipe) -> None:
    augmentation, mixing, decay = recipe.augmentation, recipe.mixing, recipe.optimization.ema_decay
    if not 0 <= mixing.smoothing < 1:
        raise RecipeError(f"smoothing must lie in [0, 1), not {mixing.smoothing}")
    for name, value in {
        "prob": mixing.prob,
        "switch_prob": mixing.switch_prob,
        "flip": augmentation.flip,
        "random_erasing": augmentation.random_erasing,
    }.items():
        if not 0 <= value <= 1:
            raise RecipeError(f"{name} is a probability, not {value}")
    if decay is not None and not 0 <= decay < 1:
        raise RecipeError(f"ema_decay must lie in [0, 1), not {decay}")
    if not 0 < augmentation.eval_crop <= 1:
        raise RecipeError(f"eval_crop is a fraction in (0, 1], not {augmentation.eval_crop}")


def _check_amounts(recipe: Recipe) -> None:
    optimization, mixing = recipe.optimization, recipe.mixing
    for name, value in {
        "lr": optimization.lr,
        "min_lr": optimization.min_lr,
        "warmup_lr": optimization.warmup_lr,
        "weight_decay": optimization.weight_decay,
        "mixup_alpha": mixing.mixup_alpha,
        "cutmix_alpha": mixing.cutmix_alpha,
        "cache_gb": recipe.data.cache_gb,
    }.items():
        if not 0 <= value < float("inf"):
            raise RecipeError(f"{name} must be a number of at least 0, not {value}")


def _check_mixing(mixing: Mixing) -> None:
    alphas = {"mixup": mixing.mixup_alpha, "cutmix": mixing.cutmix_alpha or mixing.cutmix_minmax}
    if mixing.mix in alphas and not alphas[mixing.mix]:
        raise RecipeError(f"{mixing.mix}_alpha 0 turns off what --mix {mixing.mix} asks for")
    if mixing.mix == "mixup+cutmix" and not any(alphas.values()):
        raise RecipeError("mixup_alpha and cutmix_alpha are both 0: nothing to mix with; use --mix none")
    if mixing.bce_threshold is not None and mixing.loss != "bce":
        raise RecipeError(f"bce_threshold needs --loss bce, but the loss is {mixing.loss}")


def _check_ranges(recipe: Recipe) -> None:
    """Refuse numbers that would only fail once the run has begun, or train something else without a word."""
    data, augmentation, optimization, run = recipe.data, recipe.augmentation, recipe.optimization, recipe.run
    for name, value, least in (
        ("train_images", data.train_images, 1),
        ("max_steps", run.max_steps, 1),
        ("threads", run.threads, 1),
        ("lr_batch", optimization.lr_batch, 1),
        ("workers", data.workers, 0),
        ("pad", augmentation.pad, 0),
        ("color_jitter", augmentation.color_jitter, 0),
        ("mix_epochs", recipe.mixing.mix_epochs, 0),
        ("mix_start", recipe.mixing.mix_start, 0),
        ("cooldown_epochs", optimization.cooldown_epochs, 0),
        ("warmup_epochs", optimization.warmup_epochs, 0),
    ):
        if value is not None and not value >= least:
            raise RecipeError(f"{name} must be at least {least}, not {value}")
    for name, value in (
        ("eps", optimization.eps),
        ("clip_grad", optimization.clip_grad),
        ("layer_decay", optimization.layer_decay),
        *(("std", value) for value in augmentation.std),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"{name} must be a number above 0, not {value}")
    for name, value in (("drop_path", recipe.model.drop_path), *(("betas", value) for value in optimization.betas)):
        if not 0 <= value < 1:
            raise RecipeError(f"{name} must lie in [0, 1), not {value}")
    for name, (low, high), most in (
        ("crop_scale", augmentation.crop_scale, 1.0),
        ("crop_ratio", augmentation.crop_ratio, float("inf")),
    ):
        if not 0 < low <= high <= most:
            limit = " and at most 1" if most == 1 else ""
            raise RecipeError(f"{name} needs two numbers above 0{limit}, the lower first, not {low:g} {high:g}")


def check_grey_range(grey: tuple[float, float] | None) -> None:
    """Refuse a grey range that is none.

    Raises:
        RecipeError: black is not below white, or one is not finite.
    """
    if grey is not None and not -float("inf") < grey[0] < grey[1] < float("inf"):
        raise RecipeError(f"grey_range needs two numbers, black below white, not {grey[0]:g} {grey[1]:g}")


def _check_labels(mixing: Mixing, epochs: int) -> None:
    """Refuse a mixing or a rule that there is not, and a rule that would train the same labels as the area's."""
    mixer, rule = build_mixer(mixing), build_rule(mixing)
    name = rule_name(mixing)
    if name == "area":
        return
    if "foreground" in rule.needs:
        raise RecipeError(
            f"labels {name!r} need masks of the objects, which training does not load; in a loop of your own: "
            f"tm.mix(images, labels, foreground=masks)"
        )
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
        title = "TransMix" if name == "attention" else f"labels {name!r}"
        raise RecipeError(
            f"{title} would change nothing here: {reason}. Change that, or train with other --labels (or --mix)"
        )
