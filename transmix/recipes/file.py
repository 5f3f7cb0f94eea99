"""Recipes as YAML files: read strictly (an unknown key is an error), written with every setting."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from transmix import plugins
from transmix.error import RecipeError, one_line
from transmix.recipes.mixing import resolved
from transmix.recipes.settings import Recipe, flat

RENAMED = {"mix_prob": "prob", "mix_mode": "mode"}
"""Settings of section mixing that had another name once -> their name."""

MOVED = {"attention_weight": "weight", "downsample": "downsample"}
"""Settings of section mixing that were keys of their own once -> their name in labels_options."""

LARGEST = 100_000
"""Letters in a recipe; more are refused before they are parsed."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("transmix.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe that comes with the package, comments included.

    Raises:
        RecipeError: no recipe of this name; the message names the nearest.
    """
    if name not in recipe_names():
        raise RecipeError(f"no recipe is called {name!r}{plugins.nearest(name, recipe_names())}")
    return (resources.files("transmix.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_path: str, absent: Mapping[str, Any] = types.MappingProxyType({})) -> Recipe:
    """Load a recipe by name, or from a YAML file if the text ends in .yaml or .yml.

    Args:
        name_or_path: name, or path of a YAML file.
        absent: setting -> value if the file does not set it; other missing settings get their defaults.

    Raises:
        RecipeError: no such recipe, text that is not YAML, an unknown key or a value of the wrong type.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        try:
            with Path(name_or_path).open(encoding="utf-8") as file:
                text = file.read(LARGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {name_or_path}: {error}") from error
    else:
        text = recipe_text(name_or_path)
    if len(text) > LARGEST:
        raise RecipeError(f"{name_or_path} is longer than {LARGEST} letters; is it a recipe?")
    try:
        values = yaml.load(text, _Loader)
    except RecipeError as error:
        raise RecipeError(f"{name_or_path}{error}") from None
    except Exception as error:  # YAML's own, and on odd scalars nearly any other
        raise RecipeError(f"{name_or_path} is not YAML: {one_line(error)}") from error
    return typing.cast(Recipe, _build(Recipe, {} if values is None else values, name_or_path, "", absent))


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting, section by section."""
    return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(recipe))), sort_keys=False, allow_unicode=True)


def changed_settings(before: Recipe, after: Recipe) -> list[str]:
    """Return "name: old -> new" of every setting in which two recipes differ, aliases resolved."""
    old, new = (flat(resolved(recipe)) for recipe in (before, after))
    return [f"{name}: {value} -> {new[name]}" for name, value in old.items() if value != new[name]]


class _Loader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few lines could stand for any number so
            raise RecipeError(" uses a YAML alias (*name); write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [name.value for name, _ in node.value]
        for at, (name, _) in enumerate(node.value):
            if name.value in names[:at]:  # YAML itself silently takes the last
                raise RecipeError(f": {name.value} (line {name.start_mark.line + 1}) is given twice; keep one")
        return super().construct_mapping(node, deep)


def _build(kind: type, values: Any, where: str, section: str, absent: Mapping[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: {section or 'a recipe'} must be settings (name: value), not {values!r}")
    values = _renamed(values, where) if section == "mixing" else values
    hints = typing.get_type_hints(kind)
    settings = {name: value for name, value in absent.items() if name in hints}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        if key not in hints:
            raise RecipeError(f"{where}: unknown setting {name}{plugins.nearest(str(key), list(hints))}")
        if dataclasses.is_dataclass(hints[key]):
            part = typing.cast(type, hints[key])
            settings[key] = _build(part, {} if value is None else value, where, name, absent)
        else:
            settings[key] = _convert(value, hints[key], f"{where}: {name}")
    return kind(**settings)


def _renamed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the section mixing with current names."""
    for old, name in RENAMED.items():
        if old in values and name in values:
            raise RecipeError(f"{where}: mixing.{old} is an old name of {name}, which is given too; keep one")
    found = {RENAMED.get(key, key): value for key, value in values.items() if key not in MOVED}
    options = {MOVED[key]: value for key, value in values.items() if key in MOVED}
    given = found.get("labels_options") or {}
    if options and isinstance(given, dict):
        if twice := sorted(options.keys() & given.keys()):
            raise RecipeError(f"{where}: {twice[0]} is given twice, in mixing and in labels_options; keep one")
        found["labels_options"] = given | options
    return found


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Convert a YAML value to the type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None and type(None) in arguments:
        return None
    if origin is types.UnionType:
        hint, *others = [argument for argument in arguments if argument is not type(None)]
        if not others:
            return _convert(value, hint, name)
        takes_lists = any(typing.get_origin(kind) is tuple for kind in others)
        parts = value if takes_lists and isinstance(value, list | tuple) else [value]
        if parts and all(type(part) in (hint, *others) for part in parts):
            return value if parts == [value] else tuple(parts)
        wanted = "a number, a text, true, false or a list of such"
    elif origin is typing.Literal:
        if value in arguments:
            return value
        wanted = f"one of {', '.join(map(str, arguments))}"
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(arguments):
            return tuple(_convert(part, argument, name) for part, argument in zip(value, arguments, strict=True))
        wanted = f"a list of {len(arguments)} numbers"
    elif origin is dict:
        if isinstance(value, dict):
            return {str(key): _convert(part, arguments[1], f"{name}.{key}") for key, part in value.items()}
        wanted = "settings (name: value)"
    else:
        try:
            return plugins.converted(hint, value, name)
        except ValueError as error:
            raise RecipeError(str(error)) from None
    raise RecipeError(f"{name} must be {wanted}, not {value!r}")
