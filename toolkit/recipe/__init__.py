"""Recipes: whole experiments in one file, checked before anything is computed."""

from toolkit.recipe.load import load_recipe
from toolkit.recipe.recipe import ContrastSpec, Recipe, StrategyOverrides

__all__ = ["ContrastSpec", "Recipe", "StrategyOverrides", "load_recipe"]
