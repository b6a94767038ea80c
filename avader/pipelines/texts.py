"""The texts that settings are parsed from: files by URI, recipes by name."""

from avader.io import storage
from avader.recipes import RECIPES, load_recipe_text


def read_text(uri: str) -> str:
    """The text of a settings file."""
    return storage.read_text(uri)


def read_recipe(name: str) -> str:
    """The text of a built-in recipe, or of a recipe file by URI."""
    return load_recipe_text(name) if name in RECIPES else storage.read_text(name)
