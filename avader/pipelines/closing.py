"""The last lines of a run: what was refused; of a classification what came out, and how far it is
from what the model knows.

Posted as JSON where an address is given, for people who are not there when a long run ends.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import requests

from avader import __version__
from avader.catalogue.drift import COLUMNS, Tally, drift, tally, warnings
from avader.errors import InputError, StorageError
from avader.io import shards, storage
from avader.io.manifest import Manifest
from avader.io.models import ModelFiles
from avader.pipelines.progress import say

SECONDS = 30
"""How long the address may take to answer."""


def close(written: Manifest, model: ModelFiles, *, out: str, address: str | None) -> None:
    """Say the summary of a finished catalogue, and post it where an address is given.

    What storage refuses is said: the catalogue is there, and its increments may go on.
    """
    try:
        told = summary(written, model)
    except (InputError, StorageError) as error:
        say(f"classified into {out}; its summary could not be made: {error}")
        return
    shares = " ".join(f"{count:,}" for count in told["occupancy"])
    lines = [
        f"classified {told['rows']:,} cutouts ({told['rejects']:,} rejects) into {out}",
        f"  galaxies of each component: {shares}",
    ]
    lines += reject_lines(told["reasons"])
    lines += [f"  warning: {text}" for text in told["warnings"]]
    for line in lines:
        say(line)
    if address is not None:
        post(address, {"text": "\n".join(lines), **told})


def summary(written: Manifest, model: ModelFiles) -> dict[str, Any]:
    """The figures of a finished catalogue, beside those of the model's training images."""
    components = written.facts["components"]
    found = tally(shards.read_parts(written.uri, written.paths, COLUMNS), components)
    result = model.card.get("result", {})
    trained = None
    if sum(result.get("occupancy", ())):
        trained = Tally(tuple(result["occupancy"]), result.get("mean_log_likelihood"))
    seen = drift(found, trained) if trained is not None and written.totals["rows"] else None
    return {
        "catalogue": storage.public_uri(written.uri),
        "model": model.digest,
        "rows": written.totals["rows"],
        "rejects": written.totals["rejects"],
        "reasons": reasons(written),
        **asdict(found),
        "training": asdict(trained) if trained is not None else None,
        "drift": asdict(seen) if seen is not None else None,
        "warnings": warnings(seen, written.facts["latent"]) if seen is not None else [],
    }


def post(address: str, content: dict[str, Any]) -> None:
    """Post JSON; a failure is a line, since the catalogue is there all the same."""
    try:
        answer = requests.post(
            address,
            json=content,
            timeout=SECONDS,
            headers={"User-Agent": f"avader/{__version__}"},
        )
        answer.raise_for_status()
    except requests.RequestException as error:
        where = storage.public_uri(address)
        say(f"  the summary was not taken by {where}: {type(error).__name__}; all else is done")


def reject_lines(counts: Mapping[str, int]) -> list[str]:
    """A line for each reason of rejects."""
    return [f"  rejects: {count:,} {reason}" for reason, count in counts.items()]


def reasons(written: Manifest) -> dict[str, int]:
    """Rejects of each reason, the commonest first."""
    counts: Counter[str] = Counter()
    paths = [part["rejects_path"] for part in written.parts if part["rejects"]]
    for table in shards.read_parts(written.uri, paths, ["reason"]):
        counts.update(table["reason"].to_pylist())
    return dict(counts.most_common())
