"""Training by recipe, on Lightning."""

from glimpse.training.cues import CueSource
from glimpse.training.recipe import Recipe, Stage, load_recipe, packaged_recipes, parse_recipe
from glimpse.training.train import Trained, train

__all__ = ["CueSource", "Recipe", "Stage", "Trained", "load_recipe", "packaged_recipes", "parse_recipe", "train"]
