"""Recipes that come with the package: TOML texts, each headed by command, cost and result."""

from importlib.resources import files

from avader.errors import InputError

RECIPES = ("demo", "galaxies-64", "mnist", "paper")


def load_recipe_text(name: str) -> str:
    """The TOML text of a built-in recipe. Raises InputError for an unknown name."""
    if name not in RECIPES:
        raise InputError(
            f"wanted a built-in recipe ({', '.join(RECIPES)}) or the URI of a TOML file, "
            f"got {name!r}; a file's name is given with its suffix, such as mine.toml"
        )
    return files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
