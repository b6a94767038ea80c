"""Where the rounds happen: a survey, its model and undisturbed runs of every verb in each place."""

import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

from avader.recipe import Network, Preprocessing
from tests.s3 import S3Server
from tests.tiny import write_table, write_tiny_model

# Slow enough that a run lasts some seconds after its workers are up.
NETWORK = Network(size=64, latent=3, filters=(32, 32), kernels=(5, 5), decoder_kernels=(5, 3))
PREPROCESSING = Preprocessing(size=64)
COUNT, ROWS = 200, 10


class Place:
    """A folder on local disk, with what verbs need once it is made."""

    name = "local disk"

    def __init__(self, root: str) -> None:
        self.root = root
        self._options: dict[str, list[str]] = {}
        self._units: dict[str, int] = {}

    def join(self, *names: str) -> str:
        """A URI below the folder."""
        return "/".join([self.root, *names])

    def make(self, source: Path, environment: dict[str, str]) -> Self:
        """Lay down a survey and a model, and do every verb once, undisturbed."""
        table = self.put(source, "survey.parquet")
        model = self.join("model")
        write_tiny_model(model, network=NETWORK, preprocessing=PREPROCESSING)
        self._options = {
            "pack": ["--source", table, "--preprocessing.size", "64"],
            "classify": ["--model", model, "--data", self.reference("pack")],
            "generate": ["--model", model, "--count", str(COUNT)],
        }
        for verb in self._options:
            command = self.command(verb, self.reference(verb))
            subprocess.run(
                command, env={**os.environ, **environment}, check=True, capture_output=True
            )
            names = self.contents(self.reference(verb))
            self._units[verb] = sum(name.startswith("rejects/") for name in names)
        return self

    def reference(self, verb: str) -> str:
        """The folder of a verb's undisturbed run."""
        return self.join(f"whole-{verb}")

    def command(self, verb: str, out: str) -> list[str]:
        """The command that does a verb into a folder."""
        shards = [] if verb == "classify" else ["--rows-per-shard", str(ROWS)]
        options = [*self._options[verb], *shards, "--out", out, "--workers", "2"]
        return [sys.executable, "-m", "avader", verb, *options]

    def units(self, verb: str) -> int:
        """Units that a verb's run has."""
        return self._units[verb]

    def done(self, out: str) -> int:
        """Units of a folder that are done."""
        return len(list(Path(out).glob("rejects/*.parquet")))

    def put(self, file: Path, name: str) -> str:
        """Bring a file there; its URI."""
        shutil.copy(file, self.join(name))
        return self.join(name)

    def contents(self, out: str) -> dict[str, bytes]:
        """Every object below a folder, hidden ones too, by its path there."""
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in Path(out).rglob("*")
            if path.is_file()
        }

    def remove(self, out: str) -> None:
        """Remove a folder."""
        shutil.rmtree(out)


class Bucket(Place):
    """The same on an S3 server; looked at by boto3, not by what is tested."""

    name = "S3"

    def __init__(self, root: str, server: S3Server) -> None:
        super().__init__(root)
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
        )
        self._bucket = server.bucket

    def done(self, out: str) -> int:
        """Units of a folder that are done."""
        return sum(1 for _ in self._keys(f"{out}/rejects"))

    def put(self, file: Path, name: str) -> str:
        """Bring a file there; its URI."""
        self._client.upload_file(str(file), self._bucket, self._key(self.join(name)))
        return self.join(name)

    def contents(self, out: str) -> dict[str, bytes]:
        """Every object below a folder, and every upload that was not ended."""
        prefix = self._key(out) + "/"
        found = {}
        for key in self._keys(out):
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            found[key.removeprefix(prefix)] = body.read()
        uploads = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix)
        return found | {f"upload of {u['Key']}": b"" for u in uploads.get("Uploads", ())}

    def remove(self, out: str) -> None:
        """Remove a folder."""
        for key in list(self._keys(out)):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _key(self, uri: str) -> str:
        return uri.removeprefix(f"s3://{self._bucket}/")

    def _keys(self, uri: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._key(uri) + "/"):
            yield from (entry["Key"] for entry in page.get("Contents", ()))


def survey(folder: Path) -> Path:
    """A table of galaxies, some of which cannot be used."""
    path = Path(write_table(folder / "survey.parquet", COUNT))
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    ids = table["object_id"].to_pylist()
    for row in range(5, COUNT, 37):
        images[row] = images[row][:40]
    ids[123] = ids[7]
    columns = {name: table[name] for name in table.column_names} | {
        "image": images,
        "object_id": ids,
    }
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def ids_of(contents: dict[str, bytes]) -> Counter[str]:
    """The ids of all parts and rejects, as often as they occur."""
    found: Counter[str] = Counter()
    for name, data in contents.items():
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            column = "index" if "index" in table.column_names else "object_id"
            found.update(map(str, table[column].to_pylist()))
    return found
