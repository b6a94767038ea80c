"""A recipe's table [search]: what is taken, what is refused and how that is said."""

import tomllib

import pytest

from avader.config import parse
from avader.errors import InputError
from avader.ranges import Range
from avader.recipe import Recipe, setting, varied

RATE = '"optimiser.learning_rate" = { low = 3e-4, high = 3e-3, log = true }'


def tuned(table: str):
    """The settings of `tune` for a recipe with this table [search]."""
    return parse(
        "tune",
        ["--data", "d", "--out", "o"],
        read_text=lambda uri: "",
        recipe_text=lambda name: f"[search]\n{table}",
    )


def test_ranges_and_choices():
    search = tuned(
        f"{RATE}\n"
        '"mixture.components" = { choices = [8, "auto"] }\n'
        '"network.filters" = { choices = [[8, 16, 16], [16, 32, 32]] }\n'
        "flips = { choices = [true, false] }"
    ).search
    assert search["optimiser.learning_rate"] == Range(low=3e-4, high=3e-3, log=True)
    assert search["mixture.components"].choices == (8, "auto")
    assert search["network.filters"].choices == ((8, 16, 16), (16, 32, 32))
    assert search["flips"].choices == (True, False)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('"optimiser.rate" = { low = 1, high = 2 }', r"wanted names of settings .*optimiser\.rate"),
        ("optimiser = { low = 1, high = 2 }", "wanted the name of one setting, got the section"),
        ('"network.size.x" = { low = 1, high = 2 }', "wanted names of settings"),
        ('"optimiser.batch" = { low = 0, high = 9 }', "batch: wanted greater than 0, got 0 in"),
        ('"optimiser.batch" = { low = 1.5, high = 9 }', "got 1.5 in its range"),
        (
            '"optimiser.batch" = { low = 9, high = 1 }',
            "low: wanted low < high, .* low 9 and high 1",
        ),
        ('"optimiser.batch" = { low = 9 }', "low 9 and high None"),
        ('"optimiser.l2" = { low = 0, high = 1, log = true }', "low: wanted a value above 0"),
        ('"optimiser.batch" = { choices = [8] }', "choices: wanted two or more that differ"),
        ('"optimiser.batch" = { choices = [8, 8, 9] }', "choices: wanted two or more that differ"),
        ('"optimiser.batch" = { choices = [8, 9], low = 1 }', "choices: wanted them alone"),
        ('"optimiser.batch" = { choice = [8, 9] }', "choice"),
        ('"network.upsampling" = { choices = ["legacy", "x"] }', "got 'x' in its range"),
        ('"network.filters" = { choices = [[8], [9]] }', r"kernels: wanted one per block \(1\)"),
        ("seed = { low = 0, high = 9 }", "seed is not searched, since a seed chosen by its result"),
        ('"schedule.periods" = { low = 1, high = 9 }', "compared at the same epoch"),
        ("held_out = { low = 0.1, high = 0.5 }", "compared on the same images"),
    ],
)
def test_what_is_refused(table, message):
    with pytest.raises(InputError, match=message):
        tuned(table)


def test_training_leaves_ranges_aside_but_checks_them():
    def trained(table):
        return parse(
            "train",
            ["--data", "d", "--out", "o"],
            read_text=lambda uri: "",
            recipe_text=lambda name: f"[search]\n{table}",
        )

    assert list(trained(RATE).search) == ["optimiser.learning_rate"]
    with pytest.raises(InputError, match="wanted names of settings"):
        trained('"optimiser.rate" = { low = 1, high = 2 }')


def test_varied_changes_what_it_is_told_alone():
    recipe = Recipe(**tomllib.loads(f"seed = 5\n[search]\n{RATE}"))
    values = {"optimiser.batch": 7, "contrast.views.rotation": 4.0, "agreement": 0.5}
    changed = varied(recipe, values)
    assert {name: setting(changed, name) for name in values} == values
    assert changed.search == {}
    assert varied(changed, {name: setting(recipe, name) for name in values}) == recipe.model_copy(
        update={"search": {}}
    )


@pytest.mark.parametrize(
    ("span", "inside", "outside"),
    [
        (Range(low=1, high=3), [1, 2.5, 3], [0.9, 3.1, "auto", (2,)]),
        (Range(choices=(8, "auto", (1, 2))), [8, "auto", (1, 2)], [9, "x", (1, 3)]),
    ],
)
def test_what_a_range_holds(span, inside, outside):
    assert all(span.holds(value) for value in inside)
    assert not any(span.holds(value) for value in outside)
