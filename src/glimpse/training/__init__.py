"""Training by recipe, on Lightning."""

from glimpse.training.recipe import Recipe, Stage, load_recipe, packaged_recipes, parse_recipe
from glimpse.training.train import Trained, train

__all__ = ["Recipe", "Stage", "Trained", "load_recipe", "packaged_recipes", "parse_recipe", "train"]
