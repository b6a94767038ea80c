"""Rows of a table that are taken: those with enough votes, and of these one part."""

from dataclasses import replace

import numpy as np

from avader.errors import InputError
from avader.io import storage
from avader.survey.galaxy_zoo import Part, Selection, key_range, keys_of
from avader.survey.sources import Source, read_ids
from avader.survey.tables import NAMES_SHOWN, is_number

# Rows of a table whose ids are held at a time.
ROWS = 100_000


def select(
    source: Source, *, votes_column: str, min_votes: int = 0, part: Part | None = None
) -> Source:
    """The source with those rows alone that have the votes and, of these, are in the part.

    Ids and votes of all rows are read; 8 bytes an object are held. A row without an id is in one
    of the parts too, so that it is a reject of one of them.

    Raises InputError where the source has no such columns, or no such rows.
    """
    if source.layout is None:
        raise InputError(
            f"wanted a table for --split and --min-votes, but {storage.public_uri(source.uri)} is "
            "image files, which have no columns"
        )
    column = votes_column if min_votes else None
    _check_votes(source, column)
    chosen = replace(source, selection=Selection(column, min_votes))
    if part is not None:
        keys = [keys_of([name for name in read_ids(unit) if name]) for unit in chosen.units(ROWS)]
        first, last = key_range(np.concatenate(keys), part)
        chosen = replace(source, selection=Selection(column, min_votes, first, last))
    taken = sum(len(read_ids(unit)) for unit in chosen.units(ROWS))
    if not taken:
        raise InputError(
            f"wanted rows with --min-votes {min_votes} and --split {part or 'all'}, came none of "
            f"{sum(source.rows):,} in {storage.public_uri(source.uri)}"
        )
    return replace(chosen, taken=taken)


def _check_votes(source: Source, column: str | None) -> None:
    carried = source.carried
    if column is None:
        return
    if column not in carried.names:
        raise InputError(
            f"wanted a column {column!r} of votes, came columns "
            f"{', '.join(carried.names[:NAMES_SHOWN]) or 'none'}; say which it is with "
            "--votes-column"
        )
    if not is_number(carried.field(column).type):
        raise InputError(
            f"wanted numbers of votes in {column!r}, came {carried.field(column).type}"
        )
