"""Units of work, their names, what remains of them, and the plan's fingerprint.

A unit of work is a shard with a name. What it writes, name and bytes, is a pure function of the
plan and the unit, so a unit may be done again by anyone, at any time, without harm.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

TILES = {"cpu": 16, "gpu": 256}
"""Images that a device computes at once, where nobody says."""


def tile_on(device: str, settings: Mapping[str, Any]) -> int:
    """Images that a device, cpu or gpu, computes at once for a catalogue that was made so.

    Its own number where it was made on such a device, since the last bits depend on it; else 0:
    what suits the device.
    """
    own: int = settings["tile"]
    return own if settings.get("device", "cpu") == device else 0


@dataclass(frozen=True, slots=True)
class Unit:
    """One shard of work.

    name: unique within the plan, fit for a file name ("00000042").
    inputs: JSON values that tell the worker what to read or make.
    """

    name: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished unit counted.

    rows_in: objects taken from the input; rows: rows in the part; rejects: rows refused.
    size: bytes of the part; sha256 and rejects_sha256: digests of the two objects written.
    """

    unit: str
    rows_in: int
    rows: int
    rejects: int
    size: int
    sha256: str
    rejects_sha256: str

    def __post_init__(self) -> None:
        assert self.rows_in == self.rows + self.rejects, f"rows lost in unit {self.unit}: {self}"


def part_name(unit: str) -> str:
    """Path of a unit's rows below the output folder, where the plan names no other."""
    return f"parts/{unit}.parquet"


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of an output folder.

    kind: "cutouts", "classified", "synthetic", "hats" or "margin".
    settings: JSON values that decide content (never worker counts or credentials); those whose name
    ends with _uri are for people.
    units: in the order of the output.
    place: of a unit's name, the path of its rows below the output folder; the kind decides it.
    root: URI of the folder that `place` is below, where that is not the output folder itself but
    the one whose increment it is.
    """

    kind: str
    settings: Mapping[str, Any]
    units: tuple[Unit, ...] = field(default=())
    place: Callable[[str], str] = part_name
    root: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the plan as canonical JSON, without addresses: data may be moved."""
        return self._digest(
            {name: self.settings[name] for name in self.settings if not is_address(name)}
        )

    @cached_property
    def old_fingerprint(self) -> str:
        """The fingerprint as it once was, with addresses."""
        return self._digest(self.settings)

    def _digest(self, settings: Mapping[str, Any]) -> str:
        text = canonical_json({"kind": self.kind, "settings": settings, "units": self.units})
        return hashlib.sha256(text.encode()).hexdigest()

    def remaining(self, done: Collection[str]) -> list[Unit]:
        """Units whose names are not among the done ones, in plan order."""
        done = set(done)
        return [unit for unit in self.units if unit.name not in done]


def is_address(name: str) -> bool:
    """Whether a plan's setting of this name says where something was, for people."""
    return name.endswith("_uri")


def unit_name(number: int) -> str:
    """Name of the unit with this number, sorting as numbers do up to 10^8 - 1."""
    return f"{number:08d}"


def rejects_name(unit: str) -> str:
    """Path of a unit's rejects below the output folder; written last, it marks the unit done."""
    return f"rejects/{unit}.parquet"


def ranges(total: int, step: int) -> list[tuple[int, int]]:
    """Half-open ranges [start, stop) of at most `step` that cover 0..total; empty for 0."""
    return [(start, min(start + step, total)) for start in range(0, total, step)]


def canonical_json(value: Any) -> str:
    """JSON text with sorted keys and no spaces; tuples are lists, dataclasses are objects."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Unit):  # many: asdict would copy the inputs to their depths
        return {"name": value.name, "inputs": value.inputs}
    if isinstance(value, Receipt):
        return asdict(value)
    raise TypeError(f"not a JSON value: {value!r}")
