"""From a command line and texts to the settings of a verb."""

import argparse
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from avader.config.base import JobSettings
from avader.config.catalogues import (
    ClassifySettings,
    CompactSettings,
    ExportSettings,
    HatsSettings,
    ReportSettings,
    VerifySettings,
)
from avader.config.packing import PackSettings, SimulateSettings
from avader.config.synthetic import GenerateSettings
from avader.config.training import ImportPublishedSettings, TrainSettings, TuneSettings
from avader.errors import InputError
from avader.recipe import Preprocessing, Recipe

SETTINGS: Mapping[str, type[JobSettings]] = {
    "simulate": SimulateSettings,
    "pack": PackSettings,
    "train": TrainSettings,
    "tune": TuneSettings,
    "import-published": ImportPublishedSettings,
    "classify": ClassifySettings,
    "compact": CompactSettings,
    "generate": GenerateSettings,
    "hats": HatsSettings,
    "verify": VerifySettings,
    "report": ReportSettings,
    "export": ExportSettings,
}

ReadText = Callable[[str], str]

RANGE = {"low", "high", "choices"}
"""Keys of a range of values that a search tries."""


def parse(
    verb: str,
    arguments: Sequence[str],
    *,
    read_text: ReadText,
    recipe_text: ReadText,
) -> JobSettings:
    """Settings of a verb from its command-line arguments.

    read_text gives the text behind a URI, recipe_text the text of a recipe by name or URI.
    Raises InputError where a setting is missing, unknown or out of range; `--help` and unknown
    options end the program as argparse does.
    """
    kind = SETTINGS[verb]
    given = _early(arguments)
    settings: dict[str, Any] = {}
    if given.config is not None:
        settings = _toml(read_text(given.config), given.config)
    if issubclass(kind, Recipe):
        name = given.recipe or settings.get("recipe") or kind.model_fields["recipe"].default
        recipe = recipe_settings(
            _toml(recipe_text(name), name), name, mode=given.mode or settings.get("mode", "")
        )
        settings = _merged(recipe, settings)
    _replace_counts(settings, arguments)
    try:
        return kind(_cli_parse_args=list(arguments), _cli_prog_name=f"avader {verb}", **settings)
    except ValidationError as error:
        raise InputError(_in_words(verb, error)) from error
    except SettingsError as error:
        raise InputError(
            f"{error}: wanted a list as 2,3,7, or pairs as --NAME 0=500 --NAME 3=200, on the "
            "command line, as [2, 3, 7] or {0 = 500, 3 = 200} in a file; see "
            f"`avader {verb} --help`"
        ) from error


def _replace_counts(settings: dict[str, Any], arguments: Sequence[str]) -> None:
    """Leave a file's counts out where stronger ones are given, to which pydantic would add them.

    Raises InputError where two of those are.
    """
    given = any(argument.split("=")[0] == "--counts" for argument in arguments)
    around = [name for name in os.environ if name.upper().startswith("AVADER_COUNTS")]
    if given and around:
        raise InputError(f"wanted --counts or {around[0]}, got both; unset {around[0]}")
    if given or around:
        settings.pop("counts", None)


def like_preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    """What a model's settings and a command's make together. Raises InputError where they clash."""
    try:
        return Preprocessing(**settings)
    except ValidationError as error:
        raise InputError(
            "--like and what the command says besides do not go together: "
            + _in_words("pack", error, section="preprocessing")
        ) from error


def recipe_settings(table: Mapping[str, Any], name: str, *, mode: str = "") -> dict[str, Any]:
    """A recipe's settings in one of its modes, from its TOML table; empty takes its own choice.

    The table's [modes.NAME] go over its other settings. Raises InputError for a mode it hasn't.
    """
    settings = dict(table)
    modes = settings.pop("modes", {})
    chosen = mode or settings.get("mode", "")
    if not chosen:
        return settings
    if chosen not in modes:
        found = ", ".join(sorted(modes)) or "none"
        raise InputError(f"--mode: wanted a mode of recipe {name} ({found}), got {chosen}")
    return _merged(settings, {**modes[chosen], "mode": chosen})


def _early(arguments: Sequence[str]) -> argparse.Namespace:
    """The settings that name files, which are needed before the others are read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get("AVADER_CONFIG"))
    parser.add_argument("--recipe", default=os.environ.get("AVADER_RECIPE"))
    parser.add_argument("--mode", default=os.environ.get("AVADER_MODE"))
    return parser.parse_known_args(list(arguments))[0]


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"wanted TOML in {name}: {error}") from error


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings' settings, section by section; those of `over` win, a search's range whole."""
    both = {**under, **over}
    for name in under.keys() & over.keys():
        tables = isinstance(under[name], dict) and isinstance(over[name], dict)
        if tables and not RANGE & over[name].keys():
            both[name] = _merged(under[name], over[name])
    return both


def _in_words(verb: str, error: ValidationError, *, section: str = "") -> str:
    """A line for each wrong setting: its option, what was wanted, what came.

    section: of the settings, that the error is of.
    """
    lines, before = [], (section,) if section else ()
    for problem in error.errors():
        parts = [str(part) for part in (*before, *problem["loc"])]
        option = "--" + ".".join(parts).replace("_", "-")
        if problem["type"] == "missing":
            lines.append(f"{option} is needed")
        elif problem["type"] == "value_error":
            # Ours: of a section "field: wanted ..., got ...", of one field "wanted ..., got ...".
            name, colon, wanted = str(problem["ctx"]["error"]).partition(": ")
            if colon and name.isidentifier():
                parts, said = [*parts, name], wanted
            else:
                said = str(problem["ctx"]["error"])
            lines.append(f"--{'.'.join(parts).replace('_', '-')}: {said}")
        else:
            wanted = problem["msg"].removeprefix("Input should be ")
            lines.append(f"{option}: wanted {wanted}, got {problem['input']!r}")
    return "; ".join(lines) + f"; see `avader {verb} --help`"
