"""Recipes: all settings of a run, their YAML files, and the recipes of the package."""

from transmix.error import RecipeError
from transmix.recipes.check import check_recipe
from transmix.recipes.file import changed_settings, dump_recipe, load_recipe, recipe_names, recipe_text
from transmix.recipes.mixing import resolved
from transmix.recipes.settings import Recipe

__all__ = [
    "Recipe",
    "RecipeError",
    "changed_settings",
    "check_recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_text",
    "resolved",
]
