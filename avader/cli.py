"""`avader VERB`, `python -m avader VERB` and `python jobs/VERB.py`: one thing.

Exit codes: 0 all done; 1 a check of `verify` failed, a training cannot go on, or an unforeseen
error (with its traceback); 2 input that cannot be used; 3 some units of work were set aside and
all others are done; 4 another run holds the output folder, or has taken it over.
"""

import importlib
import logging
import sys
from collections.abc import Sequence

from avader.errors import (
    BusyError,
    InputError,
    StorageError,
    TrainingError,
    UnfinishedError,
    VerificationError,
)

VERBS = {
    "simulate": "draw a mock survey of galaxies with known truth",
    "pack": "pack cutouts into shards, as pixels or files",
    "train": "train a model on packed cutouts",
    "tune": "search a recipe's ranges for the best recipe",
    "import-published": "turn the paper's Keras weights into a model folder",
    "classify": "classify packed cutouts into a catalogue",
    "generate": "draw a synthetic catalogue from a model",
    "compact": "join a grown folder's increments in a new folder",
    "hats": "make a HATS collection from a catalogue with positions",
    "verify": "check a catalogue or packed cutouts",
    "report": "write a page about a catalogue and its model",
    "export": "write chosen rows as FITS, VOTable or CSV",
}
_USAGE = """usage: avader VERB [options]

A morphological catalogue of the sky, and a synthetic sky.

verbs:
{verbs}

`avader VERB --help` explains every option; `avader --version` names the version.
Folders are local paths or URIs such as s3://bucket/folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `avader VERB ...` and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if given else 2
    if given[0] == "--version":
        print(f"avader {importlib.import_module('avader').__version__}")
        return 0
    if given[0] not in VERBS:
        print(f"avader: wanted a verb, got {given[0]!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    return run_verb(given[0], given[1:])


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Parse the settings of a verb, run it, and return the exit code."""
    _log_to_stdout()
    try:
        settings = _parse(verb, arguments)
        importlib.import_module(f"avader.pipelines.{verb.replace('-', '_')}").run(settings)
    except InputError as error:
        print(f"avader {verb}: {error}", file=sys.stderr)
        return 2
    except UnfinishedError as error:
        print(f"avader {verb}: {error}", file=sys.stderr)
        return 3
    except (VerificationError, TrainingError, StorageError) as error:
        print(f"avader {verb}: {error}", file=sys.stderr)
        return 1
    except BusyError as error:
        print(f"avader {verb}: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print(f"avader {verb}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parse(verb: str, arguments: Sequence[str]) -> object:
    from avader import config
    from avader.pipelines.texts import read_recipe, read_text

    return config.parse(verb, arguments, read_text=read_text, recipe_text=read_recipe)


def _usage() -> str:
    width = max(map(len, VERBS))
    return _USAGE.format(verbs="\n".join(f"  {v:<{width}}  {what}" for v, what in VERBS.items()))


def _log_to_stdout() -> None:
    """Progress and results go to standard output, a line each; errors to standard error."""
    logger = logging.getLogger("avader")
    logger.handlers = [handler := logging.StreamHandler(sys.stdout)]
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.INFO)
    logger.propagate = False
