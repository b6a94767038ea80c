"""Built-in recipes: each is read, is valid, and is headed as it should be."""

import tomllib

import pytest

from avader.config import recipe_settings
from avader.errors import InputError
from avader.model.schedule import total_epochs
from avader.recipe import Mixture, Recipe, setting
from avader.recipes import RECIPES, load_recipe_text


def recipe_in(name: str, mode: str = "") -> Recipe:
    return Recipe(**recipe_settings(tomllib.loads(load_recipe_text(name)), name, mode=mode))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_headed(name):
    text = load_recipe_text(name)
    recipe = recipe_in(name)
    head = text.split("\n\n")[0]
    assert all(f"# {word}" in head for word in ("Command", "Cost", "Result"))
    assert f"--recipe {name}" in head
    assert total_epochs(recipe.schedule) >= 2


@pytest.mark.parametrize("name", RECIPES)
def test_both_modes_stand_side_by_side(name):
    paper, ours = recipe_in(name, "paper"), recipe_in(name, "ours")
    assert (paper.mode, ours.mode) == ("paper", "ours")
    assert recipe_in(name) in (paper, ours)
    assert paper.contrast.weight == paper.agreement == paper.schedule.pseudo_labels == 0
    assert paper.outside_weight == 1
    assert paper.mixture.start == "em"
    assert paper.mixture.responsibilities == "sample"
    assert ours.contrast.weight > 0
    assert ours.network == paper.network  # so that a comparison is of the methods alone


def test_a_mode_that_a_recipe_has_not():
    with pytest.raises(InputError, match=r"a mode of recipe mnist \(ours, paper\), got theirs"):
        recipe_in("mnist", "theirs")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "paper"])
def test_ranges_hold_the_recipes_own_values(name):
    """So that a search begins with the recipe as it is."""
    recipe = recipe_in(name)
    assert len(recipe.search) >= 3
    assert all(span.holds(setting(recipe, each)) for each, span in recipe.search.items())


def test_the_papers_recipe_is_the_default():
    """But for the first mixture, which the paper made from 200 batches and did not widen."""
    recipe = recipe_in("paper")
    default = Recipe()
    assert recipe.schedule == default.schedule
    assert recipe.optimiser == default.optimiser
    assert recipe.mixture == Mixture(initial_rows=38_000, initial_spread=False)
    assert (recipe.network.size, recipe.network.filters) == (128, (64, 64, 16))


def test_unknown_recipe():
    with pytest.raises(InputError, match=r"wanted a built-in recipe .* got 'mine'"):
        load_recipe_text("mine")
