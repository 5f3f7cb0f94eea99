"""Models: made by timm as a recipe says."""
