"""Recipes: every setting of a run, the files that state them, and the ones that come with the package."""

from transmix.recipes.file import changed_settings, dump_recipe, load_recipe, recipe_names, recipe_text
from transmix.recipes.settings import Recipe, RecipeError, check_recipe

__all__ = [
    "Recipe",
    "RecipeError",
    "changed_settings",
    "check_recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_names",
    "recipe_text",
]
