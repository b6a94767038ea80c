"""`verify`: one line a check, of packed cutouts or a catalogue; no Ray."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avader.catalogue import checks, schema
from avader.catalogue.columns import COLUMNS, REJECT_COLUMNS, optional_names
from avader.catalogue.repeats import id_digests
from avader.config import VerifySettings
from avader.errors import InputError, VerificationError
from avader.images.checks import Reason
from avader.io import growth, storage
from avader.io.manifest import Manifest
from avader.io.spool import IdSpool
from avader.pipelines.progress import say

# Faults told of a check that failed; the rest are counted.
SHOWN = 5


def run(settings: VerifySettings) -> None:
    """Check a finished folder. Raises VerificationError, after all checks, where one failed."""
    held = growth.read_whole(storage.absolute(settings.catalogue))
    if held.kind not in checks.CHECKS:
        raise InputError(f"wanted a catalogue or packed cutouts, got a folder of {held.kind}")
    failed = _audit(held)
    if margin := held.facts.get("margin"):
        beside = growth.read_whole(storage.join(held.uri, margin["path"]), kind="margin")
        failed += _audit(beside)
        if beside.digest != margin["manifest_sha256"]:
            say(f"  FAILED margin: {margin['path']} is not the one that was made with the rest")
            failed.append("margin")
    if failed:
        raise VerificationError(
            f"{len(failed)} checks failed ({', '.join(failed)}); do not use {settings.catalogue}"
        )
    say(f"all checks passed: {settings.catalogue}")


def _audit(held: Manifest) -> list[str]:
    """Check a folder, a line a check; names of the checks that failed."""
    say(f"verifying {held.totals['rows']:,} rows of {held.kind} in {len(held.parts):,} parts")
    failed = []
    for check in Audit(held).results():
        say(f"  {check.line()}")
        if check.faults:
            failed.append(check.name)
    return failed


@dataclass(frozen=True)
class Check:
    """One check and what it found.

    asks: what was looked at, {} standing for how many (seen, of total, nouns); faults: each with
    the name of its part. A part that is not as written is not read, so that other checks may have
    seen less than all.
    """

    name: str
    asks: str
    faults: Sequence[str]
    seen: int
    total: int
    noun: str = "rows"

    @property
    def verdict(self) -> str:
        """FAILED; or PARTLY, where not all could be looked at; or ok."""
        if self.faults:
            return "FAILED"
        return "PARTLY" if self.seen < self.total else "ok"

    def line(self) -> str:
        """The check in one line, however many its faults."""
        of = f" of {self.total:,}" if self.seen < self.total else ""
        told = [self.asks.format(f"{self.seen:,}{of} {self.noun}"), *self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            told.append(f"and {len(self.faults) - SHOWN:,} more")
        return f"{self.verdict:<7}{self.name}: {'; '.join(told)}"


class Audit:
    """Reads every object of a folder once, and collects the faults of every check."""

    def __init__(self, held: Manifest) -> None:
        self.held = held
        # Those of a HATS catalogue that are no unit's.
        self.files: list[dict[str, str]] = held.facts.get("files", [])
        self.checks = checks.CHECKS[held.rows_of]
        self.read_columns = {name for check in self.checks for name in check.columns}
        self.read_columns.add("index" if held.rows_of == "synthetic" else "object_id")
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.seen: Counter[str] = Counter()
        self.ids = IdSpool()
        self.id_parts: list[tuple[str, int]] = []
        self.first_schema: pa.Schema | None = None
        # Where rows are in the order of their positions, the indices that have been met.
        self.on_sky = held.kind == "hats" or bool(held.facts.get("shares"))
        self.met = np.zeros(held.totals["rows"] if self.on_sky else 0, bool)

    def results(self) -> Iterator[Check]:
        """Every check; all but the first come once every part has been read."""
        yield self._listing()
        with self.ids:
            self._read_parts()
            self._find_duplicates()
        rows = self.held.totals["rows"]
        objects = 2 * len(self.held.parts) + len(self.files)
        yield self._counts()
        yield self._check("digests", "SHA-256 of {}", objects, "objects")
        yield self._schemas()
        optional = optional_names(self.held.rows_of)
        for check in self.checks:
            if self.seen[check.name] or not optional.intersection(check.columns):
                yield self._check(check.name, check.asks, rows)
        if self.held.kind == "margin":  # where a row may be beside several tiles
            pass
        elif self.held.rows_of == "synthetic":
            what = "each from 0 once in {}" if self.on_sky else "sequence from 0 of {}"
            yield self._check("indices", what, rows)
        else:
            yield self._check("duplicates", "comparison of {}", rows, "ids")
        yield self._check("reasons", "of {}", self.held.totals["rejects"], "rejects")

    def _read_parts(self) -> None:
        start = 0
        for part in self.held.parts:
            self._audit_part(part, start)
            self._audit_rejects(part)
            start += part["rows"]
        for file in self.files:
            self._bytes(file["path"], file["sha256"])

    def _check(self, name: str, asks: str, total: int, noun: str = "rows") -> Check:
        return Check(name, asks, self.faults[name], self.seen[name], total, noun)

    def _listing(self) -> Check:
        """Objects that the manifest doesn't list."""
        listed = {part[key] for part in self.held.parts for key in ("path", "rejects_path")}
        listed |= {file["path"] for file in self.files}
        tops = {_top(path) for path in listed}
        alone = {path for path in tops & listed if storage.exists(self._uri(path))}
        below = (storage.list_below(self.held.uri, folder) for folder in sorted(tops - listed))
        found = alone.union(*below)
        strangers = [f"{path}: not in the manifest" for path in sorted(found - listed)]
        asks = f"{{}} in the folder, {len(listed):,} in the manifest"
        return Check("listing", asks, strangers, len(found), len(found), "objects")

    def _counts(self) -> Check:
        """Rows in, by the manifest, against the rows and rejects that were found."""
        rows_in, parts = self.held.totals["rows_in"], len(self.held.parts)
        rows, rejects = self.seen["rows"], self.seen["rejects"]
        out = f"{rows:,} rows + {rejects:,} rejects"
        balance = f"in = {out}" if rows_in == rows + rejects else f"in, {out} out,"
        self.faults["counts"] += self._imbalances()
        return self._check("counts", f"{rows_in:,} rows {balance} in {{}}", parts, "parts")

    def _imbalances(self) -> Iterator[str]:
        """Faults of the manifest's own sums."""
        for name in ("rows_in", "rows", "rejects"):
            total = sum(part[name] for part in self.held.parts)
            if total != self.held.totals[name]:
                yield f"{name}: the parts hold {total:,}, the total says {self.held.totals[name]:,}"
        for part in self.held.parts:
            if part["rows_in"] != part["rows"] + part["rejects"]:
                out = f"{part['rows']:,} rows + {part['rejects']:,} rejects"
                yield f"{part['path']}: {part['rows_in']:,} rows in, {out} out"

    def _schemas(self) -> Check:
        columns = len(self.first_schema or ())
        asks = f"{columns} columns of {{}}, {len(REJECT_COLUMNS)} of their rejects"
        return self._check("schema", asks, len(self.held.parts), "parts")

    def _read(
        self, path: str, sha256: str, columns: Collection[str]
    ) -> tuple[pa.Schema, pa.Table] | None:
        """An object's schema and those of the columns that it has; None with the fault noted."""
        data = self._bytes(path, sha256)
        if data is None:
            return None
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            names = [name for name in file.schema_arrow.names if name in columns]
            return file.schema_arrow, file.read(names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            self.faults["schema"].append(f"{path}: wanted Parquet, got {said}")
            return None

    def _uri(self, path: str) -> str:
        return storage.join(self.held.uri, path)

    def _bytes(self, path: str, sha256: str) -> bytes | None:
        """An object as it was written; None with the fault noted."""
        try:
            data = storage.read_bytes(self._uri(path))
        except InputError as error:
            self.faults["digests"].append(f"{path}: {error}")
            return None
        self.seen["digests"] += 1
        if hashlib.sha256(data).hexdigest() != sha256:
            self.faults["digests"].append(f"{path}: its bytes are not those that were written")
            return None
        return data

    def _audit_part(self, part: dict[str, Any], start: int) -> None:
        """Look at a part's rows; start: rows of the parts before it."""
        path = part["path"]
        read = self._read(path, part["sha256"], self.read_columns)
        self._count("rows", path, read, part["rows"])
        if read is None:
            return
        found, table = read
        self.seen["counts"] += 1
        self.seen["schema"] += 1
        self.faults["schema"] += [f"{path}: {fault}" for fault in self._schema_faults(found)]
        sound = {
            column.name
            for column in COLUMNS[self.held.rows_of]
            if column.name in table.column_names and column.holds(table[column.name].type)
        }
        for check in self.checks:
            if sound.issuperset(check.columns):
                self.seen[check.name] += table.num_rows
                self.faults[check.name] += [f"{path}: {fault}" for fault in check.faults(table)]
        if "index" in sound:
            self._check_indices(path, table, start)
        if "object_id" in sound:
            self.seen["duplicates"] += table.num_rows
            self.ids.add(id_digests(table["object_id"].to_pylist()))
            self.id_parts.append((path, table.num_rows))

    def _count(
        self, what: str, path: str, read: tuple[pa.Schema, pa.Table] | None, wanted: int
    ) -> None:
        found = read[1].num_rows if read else 0
        self.seen[what] += found
        if found != wanted:
            self.faults["counts"].append(f"{path}: {found:,} {what} read, wanted {wanted:,}")

    def _schema_faults(self, found: pa.Schema) -> Iterator[str]:
        if self.first_schema is not None:
            if not found.equals(self.first_schema):
                yield "its columns differ from the first part's"
            return
        self.first_schema = found
        for column in COLUMNS[self.held.rows_of]:
            if column.name not in found.names:
                if column.name not in optional_names(self.held.rows_of):
                    yield f"wanted a column {column.name}"
            elif not column.holds(found.field(column.name).type):
                yield f"wanted {column.name} of {column.kind}, got {found.field(column.name).type}"

    def _check_indices(self, path: str, table: pa.Table, start: int) -> None:
        index = table["index"].to_numpy()
        self.seen["indices"] += len(index)
        if self.held.kind == "margin":
            return
        if self.on_sky:
            # As many as rows, none beyond and none twice: then each is there.
            inside = np.unique(index[(index >= 0) & (index < len(self.met))])
            if len(inside) < len(index) or self.met[inside].any():
                self.faults["indices"].append(f"{path}: indices met before or out of range")
            self.met[inside] = True
        elif not np.array_equal(index, np.arange(start, start + len(index))):
            self.faults["indices"].append(f"{path}: its indices do not go on from {start:,}")

    def _audit_rejects(self, part: dict[str, Any]) -> None:
        path = part["rejects_path"]
        read = self._read(path, part["rejects_sha256"], ("reason",))
        self._count("rejects", path, read, part["rejects"])
        if read is None:
            return
        found, table = read
        if not found.equals(schema.reject_schema()):
            wanted = ", ".join(schema.reject_schema().names)
            self.faults["schema"].append(f"{path}: wanted {wanted}, got {', '.join(found.names)}")
            return
        self.seen["reasons"] += table.num_rows
        unknown = set(table["reason"].to_pylist()) - {reason.value for reason in Reason}
        self.faults["reasons"] += [
            f"{path}: unknown reason {reason!r}" for reason in sorted(unknown, key=str)
        ]

    def _find_duplicates(self) -> None:
        """Rows that repeat the id of an earlier one, by the part they are in."""
        ends = np.cumsum([rows for _, rows in self.id_parts])
        owners = Counter(
            int(np.searchsorted(ends, row, side="right")) for row, _ in self.ids.repeats()
        )
        self.faults["duplicates"] += [
            f"{self.id_parts[owner][0]}: {rows:,} rows repeat the id of another"
            for owner, rows in sorted(owners.items())
        ]


def _top(path: str) -> str:
    """The folder that holds nothing but what a manifest lists; or the path of a single file."""
    names = path.split("/")
    return "/".join(names[:3]) if names[0] == "increments" else names[0]
