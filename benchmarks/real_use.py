"""Does a synthetic sky on S3 open in the tools that astronomers have?

    python -m benchmarks.real_use [--quick] [--count 200000] [--precision bfloat16]

So many objects of the published mixture (of random weights of its sizes, where AVADER_REAL_DATA
has none) are drawn into a bucket of a real S3 server, which is started for it (the extra `test`
brings one), and read back from there: by pandas, DuckDB, polars, astropy and a PyTorch loop. Each
must find as many objects, the same sum of their indices, and the same sum of each one's pixels
times its index.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import ray
from astropy.table import Table

import avader
from avader.config import GenerateSettings, VerifySettings
from avader.pipelines import generate, verify
from benchmarks.common import last_line, machine, real_data, seconds
from benchmarks.end_to_end import CORES, write_published
from tests.s3 import S3Server, s3_server

SHARD = 5000
ROOM = 16_384
Found = tuple[int, int, int]
"""Sums over all objects: of 1, of their indices, of their pixels times their indices."""


def main() -> None:
    """Draw, read with every tool, and print the figures."""
    given = _options()
    count = 120 if given.quick else given.count
    figures: dict[str, Any] = {"count": count, "precision": given.precision}
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name), megabytes=ROOM) as server:
        os.environ.update(server.environment())
        model, out = write_published(Path(name) / "model"), f"{server.uri}/sky"
        ray.init("local", num_cpus=CORES + 1, include_dashboard=False, log_to_driver=False)
        settings = GenerateSettings(
            model=model,
            out=out,
            count=count,
            precision=given.precision,
            rows_per_shard=min(SHARD, count // 2),
            workers=CORES,
        )
        figures["generate_s"] = seconds(lambda: generate.run(settings))
        figures["verify_s"] = seconds(lambda: verify.run(VerifySettings(catalogue=out)))
        paths = [f"{out}/{path}" for path in avader.open_catalogue(out).manifest.paths]
        found = {}
        for tool, read in {**READERS, "torch": lambda *_: _torch(out)}.items():
            began = time.perf_counter()
            found[tool] = read(paths, server)
            figures[f"{tool}_s"] = time.perf_counter() - began
            print(f"{tool:8} read {count:,} objects in {figures[f'{tool}_s']:.1f} s", flush=True)
        assert len(set(found.values())) == 1, found
        assert found["torch"][:2] == (count, count * (count - 1) // 2)
        figures["mean_pixel"] = float(avader.open_catalogue(out).images(range(100)).mean())
    weights = "random" if real_data() is None else "published"
    last_line(machine=machine(), weights=weights, **figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s: 120 objects")
    parser.add_argument("--count", type=int, default=200_000, help="objects")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args()


def _sums(index: np.ndarray, pixels: np.ndarray) -> Found:
    each = pixels.reshape(len(index), -1).sum(1, dtype=np.int64)
    return len(index), int(index.sum()), int(index @ each)


def _by_file(read: Callable[[str], Found], paths: list[str], _: S3Server) -> Found:
    """The sums of all files, which are read one after another."""
    count, index, pixels = np.array([read(path) for path in paths]).sum(0)
    return int(count), int(index), int(pixels)


def _pandas(path: str) -> Found:
    table = pd.read_parquet(path, columns=["index", "image"])
    return _sums(table["index"].to_numpy(), np.stack(table["image"].to_list()))


def _astropy(path: str) -> Found:
    with fsspec.open(path) as file:
        table = Table.read(file, format="parquet")
    return _sums(np.asarray(table["index"]), np.stack(list(table["image"])))


def _polars(path: str, server: S3Server) -> Found:
    options = {
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
        "aws_endpoint_url": server.endpoint,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    table = pl.read_parquet(path, columns=["index", "image"], storage_options=options)
    return _sums(table["index"].to_numpy(), table["image"].to_numpy())


def _duckdb(paths: list[str], _: S3Server) -> Found:
    connection = duckdb.connect()
    connection.register_filesystem(fsspec.filesystem("s3"))
    asked = "select count(*), sum(index), sum(index * list_sum(image)) from read_parquet(?)"
    count, index, pixels = connection.execute(asked, [paths]).fetchall()[0]
    return int(count), int(index), int(pixels)


READERS: dict[str, Callable[[list[str], S3Server], Found]] = {
    "pandas": partial(_by_file, _pandas),
    "duckdb": _duckdb,
    "polars": lambda paths, server: _by_file(lambda path: _polars(path, server), paths, server),
    "astropy": partial(_by_file, _astropy),
}


def _torch(out: str) -> Found:
    found = [
        _sums(batch["index"].numpy(), batch["image"].numpy())
        for batch in avader.torch_dataset(out, batch=256)
    ]
    count, index, pixels = np.array(found).sum(0)
    return int(count), int(index), int(pixels)


if __name__ == "__main__":
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    main()
