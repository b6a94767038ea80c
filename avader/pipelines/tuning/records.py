"""What a search keeps in its output folder: a record a trial, the table, the best recipe."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tomlkit

from avader.io import storage
from avader.io.models import parse_json
from avader.pipelines.tuning.trial import UNFINISHED, trial_folder, values_name
from avader.recipe import Recipe, varied

TRIALS, VALUES = "trials", "values.json"
TABLE, BEST = "trials.csv", "best.toml"


@dataclass(frozen=True)
class Record:
    """A trial that has ended.

    number: from 1, in the order of ending. values: by the settings' dotted names. scores: after
    each epoch, nats. bound, components, effective_components: after the last one. end: "end" of
    the schedule, "stopped" early or "failed", for the reason in failure.
    """

    number: int
    values: dict[str, Any]
    scores: list[float]
    bound: float | None
    components: int | None
    effective_components: float | None
    seconds: float
    end: str
    failure: str = ""

    @property
    def score(self) -> float:
        """The score after the last epoch, nats."""
        return self.scores[-1]


def write_record(out: str, record: Record) -> None:
    """Write the record of a trial that has ended."""
    uri = storage.join(out, TRIALS, f"{record.number:08d}.json")
    storage.write_bytes(uri, _json_bytes(asdict(record)))


def read_records(out: str) -> list[Record]:
    """The trials that have ended, in order of their numbers."""
    uris = storage.list_files(storage.join(out, TRIALS), (".json",))
    return [Record(**parse_json(storage.read_bytes(uri), uri)) for uri in uris]


def write_begun(folder: str, values: Mapping[str, Any]) -> None:
    """Keep the values of a trial that begins, in its folder."""
    storage.write_bytes(storage.join(folder, VALUES), _json_bytes(values))


def take_begun(out: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """The values of trials that have begun and not ended.

    A driver killed right after a trial's record leaves the trial's folder too; it is removed.
    """
    ended = {values_name(record.values) for record in records}
    begun = []
    for uri in storage.list_files(storage.join(out, UNFINISHED), (VALUES,)):
        values = parse_json(storage.read_bytes(uri), uri)
        if values_name(values) in ended:
            storage.remove(trial_folder(out, values))
        else:
            begun.append(values)
    return begun


def best_of(records: Sequence[Record]) -> Record | None:
    """The trial with the highest score of those trained to the end; the first of equals."""
    ended = [record for record in records if record.end == "end"]
    return max(ended, key=lambda record: record.score, default=None)


def table(records: Sequence[Record], names: Sequence[str]) -> bytes:
    """All trials as CSV text, a row a trial; names: the settings searched."""
    columns = ["bound", "components", "effective_components", "seconds", "end", "failure"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *names, "score", "epochs", *columns])
    for record in records:
        facts = asdict(record)
        values = [record.values[name] for name in names]
        score, epochs = ("", 0) if record.end == "failed" else (record.score, len(record.scores))
        writer.writerow([record.number, *values, score, epochs, *(facts[c] for c in columns)])
    return text.getvalue().encode()


def best_toml(recipe: Recipe, name: str, best: Record, records: Sequence[Record]) -> str:
    """The best recipe as TOML text, without ranges; name: of the recipe searched."""
    found = ", ".join(f"{key} {shown(value)}" for key, value in best.values.items())
    components, effective = best.components, best.effective_components
    head = [
        f"# The best of {len(records)} trials of `avader tune` over {name}: number {best.number}.",
        "#",
        "# Command   avader train --recipe best.toml --data packed --out model",
        f"# Cost      {len(best.scores)} epochs; its trial took {best.seconds:.0f} s.",
        f"# Result    score {best.score:.3f}, bound {best.bound:.3f} (nats an image",
        f"#           held out), {effective:.1f} effective components of {components}.",
        f"# Found     {found}",
    ]
    values = varied(recipe, best.values).model_dump(mode="json", exclude={"search"})
    if recipe.mode:  # a mode is named by a table, of which all is said already
        values["modes"] = {recipe.mode: {}}
    return "\n".join(head) + "\n\n" + tomlkit.dumps(values)


def shown(value: object) -> str:
    """A setting's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
