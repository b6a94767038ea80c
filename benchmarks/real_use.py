"""Does a synthetic sky on S3 open in the tools that astronomers have?

    python -m benchmarks.real_use [--quick] [--count 200000] [--precision bfloat16]

So many objects of the published mixture (of random weights of its sizes, where AVADER_REAL_DATA
has none) are drawn into a bucket of a real S3 server, which is started for it (the extra `test`
brings one), and read back from there: by pandas, DuckDB, polars, astropy and a PyTorch loop. Each
must find every object once, and the same sum of all pixels.
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
from avader.config import GenerateSettings, ImportPublishedSettings, VerifySettings
from avader.pipelines import generate, import_published, verify
from benchmarks.common import last_line, machine, real_data, seconds
from benchmarks.end_to_end import CORES, write_published_sizes
from tests.s3 import S3Server, s3_server

SHARD = 5000
Found = tuple[int, int]
"""Sums over all objects: of their indices, of their pixels."""


def main() -> None:
    """Draw, read with every tool, and print the figures."""
    given = _options()
    count = 120 if given.quick else given.count
    figures: dict[str, Any] = {"count": count, "precision": given.precision}
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as server:
        os.environ.update(server.environment())
        model, out = _model(Path(name)), f"{server.uri}/sky"
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
        assert found["torch"][0] == count * (count - 1) // 2
    last_line(machine=machine(), mean_pixel=found["torch"][1] / count / 128**2, **figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s: 120 objects")
    parser.add_argument("--count", type=int, default=200_000, help="objects")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args()


def _model(folder: Path) -> str:
    """The published model, or one of its sizes."""
    data = real_data()
    if data is None:
        return write_published_sizes(folder / "model")
    weights = str(data / "astrovader_published" / "saved_weights.h5")
    import_published.run(ImportPublishedSettings(weights=weights, out=str(folder / "model")))
    return str(folder / "model")


def _sums(index: np.ndarray, pixels: np.ndarray) -> Found:
    return int(index.sum()), int(pixels.sum(dtype=np.int64))


def _by_file(read: Callable[[str], Found], paths: list[str], _: S3Server) -> Found:
    """The sums of all files, which are read one after another."""
    index, pixels = np.array([read(path) for path in paths]).sum(0)
    return int(index), int(pixels)


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
    asked = "select sum(index), sum(list_sum(image)) from read_parquet(?)"
    index, pixels = connection.execute(asked, [paths]).fetchall()[0]
    return int(index), int(pixels)


READERS: dict[str, Callable[[list[str], S3Server], Found]] = {
    "pandas": partial(_by_file, _pandas),
    "duckdb": _duckdb,
    "polars": lambda paths, server: _by_file(lambda path: _polars(path, server), paths, server),
    "astropy": partial(_by_file, _astropy),
}


def _torch(out: str) -> Found:
    index = pixels = 0
    for batch in avader.torch_dataset(out, batch=256):
        index += int(batch["index"].sum())
        pixels += int(batch["image"].long().sum())
    return index, pixels


if __name__ == "__main__":
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    main()
