"""Built-in recipes: each is read, is valid, and is headed as it should be."""

import tomllib

import pytest

from avader.errors import InputError
from avader.model.schedule import total_epochs
from avader.recipe import Mixture, Recipe
from avader.recipes import RECIPES, load_recipe_text


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_headed(name):
    text = load_recipe_text(name)
    recipe = Recipe(**tomllib.loads(text))
    head = text.split("\n\n")[0]
    assert all(f"# {word}" in head for word in ("Command", "Cost", "Result"))
    assert f"--recipe {name}" in head
    assert total_epochs(recipe.schedule) >= 2


def test_the_papers_recipe_is_the_default():
    """But for the first mixture, which the paper made from 200 batches and did not widen."""
    recipe = Recipe(**tomllib.loads(load_recipe_text("paper")))
    default = Recipe()
    assert recipe.schedule == default.schedule
    assert recipe.optimiser == default.optimiser
    assert recipe.mixture == Mixture(initial_rows=38_000, initial_spread=False)
    assert (recipe.network.size, recipe.network.filters) == (128, (64, 64, 16))


def test_unknown_recipe():
    with pytest.raises(InputError, match=r"wanted a built-in recipe .* got 'mine'"):
        load_recipe_text("mine")
