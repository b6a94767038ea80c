"""avader.io.storage on a real S3 server behind a proxy that injects faults."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avader.errors import InputError, StorageError
from avader.io import s3 as s3_requests
from avader.io import shards, storage
from avader.survey import tables
from tests.faults import KINDS, FaultProxy

PART = 5 * 2**20
PART_PUT = "partNumber="


@pytest.fixture
def behind(s3, s3_uri, monkeypatch):
    """A function that puts a proxy between this process and the server, with such faults."""
    import s3fs

    with ExitStack() as proxies:

        def start(seed: int = 0, **faults: float) -> FaultProxy:
            proxy = proxies.enter_context(FaultProxy(s3.endpoint, faults=faults, seed=seed))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            s3fs.S3FileSystem.clear_instance_cache()
            return proxy

        yield start
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def direct(s3):
    """A client of the server itself, by another library's path than the code under test."""
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )
    yield client
    client.close()


def key_of(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]


def uploads(direct, s3) -> list:
    return direct.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", [])


@pytest.mark.parametrize(
    # botocore waits longer after SlowDown than after a broken connection.
    ("kind", "share"),
    [(kind, 0.15 if kind == "unavailable" else 0.35) for kind in KINDS],
)
def test_every_function_survives_each_fault(kind, share, s3_uri, behind, monkeypatch):
    """Many requests fail; what is read and what is left there are right all the same."""
    monkeypatch.setattr("avader.io.retry.FIRST_WAIT", 0.01)
    monkeypatch.setattr(s3_requests, "REMOVE_AT_ONCE", 2)
    proxy = behind(seed=3, **{kind: share})
    contents = {f"d/{n}.bin": bytes([n]) * (1_000 * n + 1) for n in range(4)}
    uris = {storage.join(s3_uri, name): data for name, data in contents.items()}
    for uri, data in uris.items():
        storage.write_bytes(uri, data)
    assert storage.list_files(s3_uri) == list(uris)
    assert storage.glob_files(f"{s3_uri}/*/[1-2].bin") == list(uris)[1:3]
    assert storage.sizes(list(uris)) == [len(data) for data in uris.values()]
    for uri, data in uris.items():
        assert storage.exists(uri)
        assert storage.read_bytes(uri) == data
        with storage.open_input(uri) as file:
            assert file.read(100) + file.read() == data
    assert not storage.exists(storage.join(s3_uri, "d/absent"))
    storage.remove(next(iter(uris)))
    assert storage.list_files(s3_uri) == list(uris)[1:]
    storage.remove(s3_uri)
    assert storage.list_files(s3_uri) == []
    storage.remove(s3_uri)
    assert set(proxy.injected) == {kind}
    assert proxy.injected[kind] >= 4


@pytest.mark.parametrize("kind", ["unavailable", "reset", "truncated"])
def test_data_sets_survive_faults(kind, s3_uri, behind):
    """Arrow's own S3 client retries by itself."""
    table = pa.table({"x": range(50_000)})
    storage.write_bytes(storage.join(s3_uri, "x.parquet"), shards.parquet_bytes(table))
    proxy = behind(seed=5, **{kind: 0.5})
    for _ in range(2):
        assert shards.open_dataset(s3_uri, ["x.parquet"]).to_table(use_threads=False) == table
    assert proxy.injected[kind] >= 2


def test_a_table_whose_reads_fail_is_not_called_corrupt(s3_uri, behind, monkeypatch):
    """The error passes Arrow as it is."""
    uri = storage.join(s3_uri, "x.parquet")
    storage.write_bytes(uri, shards.parquet_bytes(pa.table({"x": range(5_000)})))
    behind(truncated=1)
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "0")
    with pytest.raises(StorageError, match="cannot read s3://"):
        list(tables.read_batches(uri, first=0, rows=5_000, columns=["x"], at_once=500))


def test_a_part_is_read_by_ranges_through_faults(s3_uri, behind):
    table = pa.table({f"c{n}": range(5_000) for n in range(8)})
    storage.write_bytes(storage.join(s3_uri, "x.parquet"), shards.parquet_bytes(table))
    proxy = behind(seed=1, truncated=0.3, reset=0.1)
    assert shards.read_part(s3_uri, "x.parquet") == table
    with storage.open_input(storage.join(s3_uri, "x.parquet")) as file:
        assert pq.ParquetFile(file, pre_buffer=False).read(["c3"], use_threads=False) == (
            table.select(["c3"])
        )
    assert proxy.injected["truncated"] >= 2
    assert proxy.injected["reset"] >= 1


def test_a_storm_ends_after_the_stated_time(s3_uri, behind, monkeypatch):
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "2")
    proxy = behind(unavailable=1)
    began = time.monotonic()
    with pytest.raises(
        StorageError, match=r"cannot read s3://.*tried \d+ times in \d.*SlowDown.*more than 2 s"
    ):
        storage.read_bytes(storage.join(s3_uri, "object"))
    assert 2 <= time.monotonic() - began < 2 + 6
    # What botocore tries within one try of ours is known, and all that there is.
    assert proxy.injected["unavailable"] == len(proxy.requests)
    assert proxy.injected["unavailable"] % s3_requests.ATTEMPTS == 0


def test_a_body_always_short_is_never_the_object(s3_uri, behind, monkeypatch):
    uri = storage.join(s3_uri, "object")
    storage.write_bytes(uri, b"0123456789" * 1_000)
    behind(truncated=1)
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "0.3")
    with pytest.raises(StorageError, match="cannot read"):
        storage.read_bytes(uri)
    with storage.open_input(uri) as file, pytest.raises(StorageError, match="cannot read"):
        file.read(5_000)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "AWS_SECRET_ACCESS_KEY is not the one of"),
    ],
)
def test_refused_credentials_fail_at_once(variable, value, words, s3_uri, behind, monkeypatch):
    monkeypatch.setenv(variable, value)
    proxy = behind()
    uri = storage.join(s3_uri, "object")
    began = time.monotonic()
    for call in (
        lambda: storage.write_bytes(uri, b"x"),
        lambda: storage.read_bytes(uri),
        lambda: storage.list_files(s3_uri),
        lambda: storage.remove(s3_uri),
    ):
        with pytest.raises(InputError, match=f"cannot .*: .*; .*{words}"):
            call()
    # A HEAD has no body to say why.
    for call in (storage.exists, storage.open_input):
        with pytest.raises(InputError, match="these credentials may not read there"):
            call(uri)
    assert time.monotonic() - began < 5
    assert len(proxy.requests) == 6


def test_what_is_not_there_fails_at_once(s3_uri, behind):
    proxy = behind()
    wrong = "s3://no-such-bucket/object"
    for call in (
        lambda: storage.write_bytes(wrong, b"x"),
        lambda: storage.read_bytes(wrong),
        lambda: storage.list_files("s3://no-such-bucket/folder"),
        lambda: storage.exists(wrong),
    ):
        with pytest.raises(InputError, match="there is no bucket no-such-bucket") as caught:
            call()
        # Not to be taken for one image that is missing, and rejected.
        assert not isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(InputError, match="there is nothing by this name") as caught:
        storage.read_bytes(storage.join(s3_uri, "absent"))
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert len(proxy.requests) <= 8


def test_a_silent_server_is_timed_out_and_asked_again(s3_uri, behind, monkeypatch):
    uri, data = storage.join(s3_uri, "object"), bytes(range(250))
    storage.write_bytes(uri, data)
    monkeypatch.setitem(s3_requests.OPTIONS["config_kwargs"], "read_timeout", 0.5)
    proxy = behind(slow=1)
    proxy.drop_seconds = 1.5
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "0")
    with pytest.raises(StorageError, match=r"tried 1 times in .*imeout"):
        storage.read_bytes(uri)
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "60")
    proxy.requests.clear()
    proxy.seed, proxy.faults = 7, {"slow": 0.6}
    assert [storage.read_bytes(uri) for _ in range(3)] == [data] * 3
    assert len(proxy.requests) > 3


def test_a_name_that_may_not_be_removed_is_said(s3_uri, monkeypatch):
    """A request for many names succeeds as a whole, and says in its body what it did not do."""
    uri = storage.join(s3_uri, "object")
    storage.write_bytes(uri, b"x")
    fs, path = storage.filesystem(uri)
    call = fs.call_s3

    def refuse(method, **options):
        if method == "delete_objects":
            error = {"Key": path, "Code": "AccessDenied", "Message": "Access Denied"}
            return {"Errors": [error]}
        return call(method, **options)

    monkeypatch.setattr(fs, "call_s3", refuse)
    with pytest.raises(InputError, match=r"AccessDenied.*credentials may not remove there"):
        storage.remove(s3_uri)
    assert storage.exists(uri)


def test_a_large_object_is_a_multipart_upload(s3_uri, s3, behind, direct, monkeypatch):
    """Through faults: a part's request is reset, and the answer that the upload is complete lost.

    Nothing is left of broken uploads.
    """
    monkeypatch.setattr(s3_requests, "PART_BYTES", PART)
    monkeypatch.setattr("avader.io.retry.FIRST_WAIT", 0.01)
    proxy = behind(seed=1770, reset=0.15, lost=0.15, unavailable=0.1)
    uri, data = storage.join(s3_uri, "large"), os.urandom(2 * PART + 12_345)
    storage.write_bytes(uri, data)
    numbers = {r.partition(PART_PUT)[2][:1] for r in proxy.requests if PART_PUT in r}
    assert numbers == {"1", "2", "3"}
    assert not [r for r in proxy.requests if r.startswith("PUT") and PART_PUT not in r]
    assert proxy.injected["reset"] >= 1
    assert proxy.injected["lost"] >= 1
    proxy.faults.clear()
    storage.remove_asides(s3_uri)
    assert storage.read_bytes(uri) == data
    assert uploads(direct, s3) == []
    proxy.requests.clear()
    storage.write_bytes(uri, data[:PART])
    assert [request.partition(" ")[0] for request in proxy.requests] == ["PUT"]


def test_a_failed_upload_is_aborted(s3_uri, s3, behind, direct, monkeypatch):
    """The last request of the upload fails for good: no object, and no parts are left."""
    monkeypatch.setattr(s3_requests, "PART_BYTES", PART)
    behind()
    uri = storage.join(s3_uri, "large")
    fs, _ = storage.filesystem(uri)
    call = fs.call_s3

    def refuse(method, **options):
        if method == "complete_multipart_upload":
            raise PermissionError("not allowed")
        return call(method, **options)

    monkeypatch.setattr(fs, "call_s3", refuse)
    with pytest.raises(InputError, match="may not write there"):
        storage.write_bytes(uri, bytes(PART + 1))
    assert uploads(direct, s3) == []
    assert storage.list_files(s3_uri) == []


def test_a_killed_upload_is_not_seen_and_can_be_cleared(s3_uri, s3, direct):
    """A writer killed before the last request of its upload."""
    storage.write_bytes(storage.join(s3_uri, "parts", "before"), b"x")
    uri = storage.join(s3_uri, "parts", "large")
    code = f"""
import os, signal
from avader.io import s3, storage
s3.PART_BYTES = {PART}
fs, _ = storage.filesystem({uri!r})
call = fs.call_s3
def kill(method, **options):
    if method == "complete_multipart_upload":
        os.kill(os.getpid(), signal.SIGKILL)
    return call(method, **options)
fs.call_s3 = kill
storage.write_bytes({uri!r}, bytes({2 * PART}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not storage.exists(uri)
    assert storage.list_files(s3_uri) == [storage.join(s3_uri, "parts", "before")]
    assert [upload["Key"] for upload in uploads(direct, s3)] == [key_of(uri)]
    storage.remove_asides(storage.join(s3_uri, "other"))
    assert len(uploads(direct, s3)) == 1
    storage.remove_asides(storage.join(s3_uri, "parts"))
    assert uploads(direct, s3) == []


def test_an_object_replaced_while_it_is_read_is_an_error(s3_uri):
    uri = storage.join(s3_uri, "object")
    storage.write_bytes(uri, b"a" * 100)
    with storage.open_input(uri) as file:
        assert file.read(50) == b"a" * 50
        storage.write_bytes(uri, b"b" * 100)
        with pytest.raises(InputError, match="it was replaced while it was read"):
            file.read(50)


def test_writers_are_capped(s3_uri, monkeypatch):
    now, most, lock = 0, 0, threading.Lock()

    def write(fs, path, data):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.02)
        with lock:
            now -= 1

    monkeypatch.setattr(s3_requests, "write", write)
    threads = [
        threading.Thread(target=storage.write_bytes, args=(f"{s3_uri}/{n}", b""))
        for n in range(3 * storage.WRITERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == storage.WRITERS
