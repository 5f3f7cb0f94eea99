"""Models: created with timm from a recipe."""
