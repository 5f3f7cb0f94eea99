"""The error of settings."""


class RecipeError(Exception):
    """Settings that cannot be used as they stand: which one, what is wrong, what to do."""
