"""`verify`: one line a check, of packed cutouts or a catalogue; no Ray."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avader.catalogue import checks, schema
from avader.config import VerifySettings
from avader.errors import InputError, VerificationError
from avader.images.checks import Reason
from avader.io import manifest, shards, storage
from avader.io.manifest import Manifest
from avader.pipelines.progress import say

# Faults named in full for each check; the rest are counted.
SHOWN = 5


def run(settings: VerifySettings) -> None:
    """Check a finished folder. Raises VerificationError, after all checks, where one failed."""
    held = manifest.read_manifest(storage.absolute(settings.catalogue))
    if held.kind not in checks.CHECKS:
        raise InputError(f"wanted a catalogue or packed cutouts, got a folder of {held.kind}")
    say(f"verifying {held.totals['rows']:,} rows of {held.kind} in {len(held.parts):,} parts")
    audit = Audit(held)
    failed = 0
    for check, faults in audit.results():
        failed += bool(faults)
        say(f"  {'FAILED' if faults else 'ok':<7}{check}")
        for fault in faults[:SHOWN]:
            say(f"         {fault}")
        if len(faults) > SHOWN:
            say(f"         and {len(faults) - SHOWN:,} more")
    if failed:
        raise VerificationError(f"{failed} checks failed; do not use {settings.catalogue}")
    say(f"all checks passed: {settings.catalogue}")


class Audit:
    """Reads every object of a folder once and collects the faults of every check."""

    def __init__(self, held: Manifest) -> None:
        self.held = held
        self.contents: list[str] = []
        self.digests: list[str] = []
        self.counts: list[str] = []
        self.schemas: list[str] = []
        self.rejects: list[str] = []
        self.ids = [np.zeros((0, 2), np.uint64)]
        self.next_index = 0
        self.first_schema: pa.Schema | None = None

    def results(self) -> Iterator[tuple[str, list[str]]]:
        """Each check with its faults."""
        yield "rows in = rows + rejects, part by part and in all", list(self._balance())
        yield "no object in the folder that the manifest does not list", self._strangers()
        for part in self.held.parts:
            self._read_part(part)
            self._read_rejects(part)
        yield "every object is there, with its size and SHA-256", self.digests
        yield "every part has the rows that the manifest counts", self.counts
        yield "every part has the declared columns, the same in all", self.schemas
        yield f"every row of {self.held.kind} is sound", self.contents
        yield "no object occurs twice", self._duplicates()
        yield "every reject has a listed reason", self.rejects

    def _balance(self) -> Iterator[str]:
        for name in ("rows_in", "rows", "rejects"):
            total = sum(part[name] for part in self.held.parts)
            if total != self.held.totals[name]:
                yield f"{name}: the parts hold {total:,}, the total says {self.held.totals[name]:,}"
        for part in self.held.parts:
            if part["rows_in"] != part["rows"] + part["rejects"]:
                out = f"{part['rows']} rows + {part['rejects']} rejects"
                yield f"{part['path']}: {part['rows_in']} rows in, {out} out"

    def _strangers(self) -> list[str]:
        listed = {part[key] for part in self.held.parts for key in ("path", "rejects_path")}
        found = [
            f"{folder}/{uri.rpartition('/')[2]}"
            for folder in ("parts", "rejects")
            for uri in storage.list_files(storage.join(self.held.uri, folder))
        ]
        return sorted(set(found) - listed)

    def _read(self, path: str, sha256: str) -> bytes | None:
        """An object's bytes, or None with the fault noted."""
        uri = storage.join(self.held.uri, path)
        try:
            data = storage.read_bytes(uri)
        except InputError as error:
            self.digests.append(str(error))
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            self.digests.append(f"{path}: its bytes are not those that were written")
            return None
        return data

    def _read_part(self, part: dict[str, str | int]) -> None:
        path = str(part["path"])
        data = self._read(path, str(part["sha256"]))
        if data is None:
            return
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != part["rows"]:
            self.counts.append(f"{path}: {file.metadata.num_rows} rows, wanted {part['rows']}")
        self.schemas += [f"{path}: {fault}" for fault in self._schema_faults(file.schema_arrow)]
        wanted = checks.CHECKED_COLUMNS[self.held.kind]
        if set(wanted) <= set(file.schema_arrow.names):
            self._check_rows(path, file.read(list(wanted), use_threads=False))

    def _schema_faults(self, found: pa.Schema) -> Iterator[str]:
        if self.first_schema is None:
            self.first_schema = found
            names = {column.name for column in schema.COLUMNS[self.held.kind]}
            absent = names - set(found.names) - schema.OPTIONAL
            yield from (f"wanted a column {name}" for name in sorted(absent))
        elif not found.equals(self.first_schema):
            yield "its columns differ from the first part's"

    def _check_rows(self, path: str, table: pa.Table) -> None:
        for check in checks.CHECKS[self.held.kind]:
            self.contents += [f"{path}: {fault}" for fault in check(table)]
        if self.held.kind == "synthetic":
            index = table["index"].to_numpy()
            if not np.array_equal(index, np.arange(self.next_index, self.next_index + len(index))):
                self.contents.append(f"{path}: its indices do not go on from {self.next_index:,}")
            self.next_index += len(index)
        else:
            self.ids.append(checks.id_digests(table))

    def _read_rejects(self, part: dict[str, str | int]) -> None:
        path = str(part["rejects_path"])
        data = self._read(path, str(part["rejects_sha256"]))
        if data is None:
            return
        table = shards.read_table(pa.BufferReader(data))
        if table.num_rows != part["rejects"]:
            self.counts.append(f"{path}: {table.num_rows} rejects, wanted {part['rejects']}")
        unknown = set(table["reason"].to_pylist()) - {reason.value for reason in Reason}
        self.rejects += [f"{path}: unknown reason {reason!r}" for reason in sorted(unknown)]

    def _duplicates(self) -> list[str]:
        repeated = checks.count_repeated(np.concatenate(self.ids))
        return [f"{repeated:,} rows repeat the id of another"] if repeated else []
