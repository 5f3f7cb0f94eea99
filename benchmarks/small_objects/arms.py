"""What is trained: label rules (arms) by settings of the optimizer, and the stages that say which with which seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transmix.recipes import Recipe, load_recipe


@dataclass(frozen=True)
class Arm:
    """A label rule: its name in `transmix.labels.RULES`, its settings, and who looks at clean images."""

    labels: str
    options: Mapping[str, Any] = field(default_factory=dict)
    guide: str = "model"


ARMS = {
    "area": Arm("area"),
    "transmix": Arm("attention"),
    "oracle": Arm("object"),
    "control": Arm("control"),
    "line": Arm("line"),
    "transmix-shifted": Arm("attention", {"downsample": "fraction", "shift": "model"}),
    "clean-view": Arm("source", {"shift": "model"}, "ema"),
    "clean-view-and-area": Arm("source", {"shift": "model", "weight": 0.5}, "ema"),
}
"""Name -> label rule. All have the same mixed images; seed by seed they differ in the label alone."""

SETTINGS = {
    "unstable": {"linear_init": "timm", "epochs": 13},
    "lr1-epochs8": {"lr": 1e-3, "epochs": 8},
    "lr2-epochs8": {"epochs": 8},
    "lr4-epochs8": {"lr": 4e-3, "epochs": 8},
    "lr4-warm2-epochs8": {"lr": 4e-3, "warmup_epochs": 2.0, "epochs": 8},
    "stable": {},
}
"""Name -> what differs from the recipe `digits_small_objects`."""


@dataclass(frozen=True)
class Stage:
    """Which arms are trained with which settings and seeds."""

    arms: tuple[str, ...]
    settings: tuple[str, ...]
    seeds: tuple[int, ...]


STAGES = {
    "pilot": Stage(("area",), tuple(name for name in SETTINGS if name != "stable"), (100,)),
    "baseline": Stage(("area",), ("stable",), tuple(range(102, 122))),
    "main": Stage(("area", "transmix", "oracle", "control"), ("stable",), tuple(range(16))),
    "more": Stage(("line", "transmix-shifted", "clean-view", "clean-view-and-area"), ("stable",), tuple(range(16))),
    "chance": Stage(("area", "transmix", "oracle", "control"), ("unstable",), tuple(range(16))),
}
"""In the order in which they run. Seeds from 100 on serve to find the setting, and no result uses them."""


def planned(stage: Stage) -> dict[str, Recipe]:
    """Return the runs of a stage, name -> recipe, ordered by seed, so that pairs are complete early."""
    recipe = load_recipe("digits_small_objects")
    return {
        f"{setting}-{arm}-seed{seed}": changed(recipe, ARMS[arm], SETTINGS[setting], seed)
        for seed in stage.seeds
        for setting in stage.settings
        for arm in stage.arms
    }


def changed(recipe: Recipe, arm: Arm, setting: Mapping[str, Any], seed: int) -> Recipe:
    """Return the recipe of one run; on one thread, so that its result does not depend on what else runs."""
    sections = {
        "mixing": {"labels": arm.labels, "labels_options": dict(arm.options), "guide": arm.guide},
        "run": {"seed": seed, "threads": 1, "device": "cpu"},
        "data": {"workers": 0},
        "augmentation": {"pixel_version": 1},  # that of the first runs: arms are paired by seed
    }
    for name, value in setting.items():
        of = next(of for of in ("model", "optimization", "mixing") if hasattr(getattr(recipe, of), name))
        sections.setdefault(of, {})[name] = value
    return replace(recipe, **{of: replace(getattr(recipe, of), **values) for of, values in sections.items()})
