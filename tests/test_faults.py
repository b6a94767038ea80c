"""The proxy of tests.faults, seen by a client that tries once."""

import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.faults import DROP_SECONDS, DROPS, FaultProxy

DATA = bytes(range(250)) * 100


@pytest.fixture
def through(s3):
    """A function: a client that knows the proxy alone and never tries again."""
    clients = []

    def client_of(proxy: FaultProxy):
        clients.append(
            boto3.client(
                "s3",
                endpoint_url=proxy.endpoint,
                aws_access_key_id=s3.access_key,
                aws_secret_access_key=s3.secret_key,
                region_name="us-east-1",
                config=Config(retries={"total_max_attempts": 1}),
            )
        )
        return clients[-1]

    yield client_of
    for client in clients:
        client.close()


def test_what_a_client_sees_of_each_fault(s3, through):
    with FaultProxy(s3.endpoint, faults={}) as proxy:
        client = through(proxy)
        name = {"Bucket": s3.bucket, "Key": "faults/a b+c.bin"}
        client.put_object(**name, Body=DATA)
        assert client.get_object(**name)["Body"].read() == DATA
        assert client.head_object(**name)["ContentLength"] == len(DATA)
        assert not proxy.injected

        proxy.faults = {"unavailable": 1}
        with pytest.raises(ClientError, match="SlowDown") as caught:
            client.get_object(**name)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503

        proxy.faults = {"truncated": 1}
        body = client.get_object(**name)["Body"]
        with pytest.raises(BotoCoreError):
            body.read()

        proxy.faults = {"slow": 1}
        began = time.monotonic()
        assert client.get_object(**name)["Body"].read() == DATA
        assert time.monotonic() - began > (DROPS - 1) * DROP_SECONDS

        proxy.faults = {"reset": 1}
        with pytest.raises(BotoCoreError):
            client.put_object(**name, Body=b"reset")
        proxy.faults = {}
        assert client.get_object(**name)["Body"].read() == DATA

        proxy.faults = {"lost": 1}
        with pytest.raises(BotoCoreError):
            client.put_object(**name, Body=b"lost")
        proxy.faults = {}
        assert client.get_object(**name)["Body"].read() == b"lost"
        kinds = ("unavailable", "truncated", "slow", "reset", "lost")
        assert proxy.injected == dict.fromkeys(kinds, 1)


def test_the_schedule_is_the_seeds():
    def drawn(seed: int) -> list[str | None]:
        proxy = FaultProxy("http://127.0.0.1:9", faults={"reset": 0.2, "slow": 0.1}, seed=seed)
        proxy.close()
        return [proxy.draw("GET /") for _ in range(1_000)]

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert 150 < first.count("reset") < 250
    assert 60 < first.count("slow") < 140
