"""Recipes: every setting of a run, the files that state them, and the ones that come with the package."""

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
