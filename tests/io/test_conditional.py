"""One contract for local disk, a real S3 server, and a storage that has no conditions."""

import errno
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import s3fs
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from avader.errors import InputError
from avader.io import conditional, storage
from avader.io.conditional import Seen

THREADS = 10


@pytest.fixture(params=["local", "S3", "memory"])
def uri(request, tmp_path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/deep/object"
    folder = request.getfixturevalue("s3_uri") if request.param == "S3" else str(tmp_path)
    return f"{folder}/deep/object"


def race(attempt) -> list[Seen]:
    """What the winners of a race got; each attempt gets its own text."""
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(attempt, [b"%d" % number for number in range(THREADS)])
    return [seen for seen in results if seen is not None]


def test_created_once_replaced_as_seen_and_removed(uri):
    assert conditional.read(uri) is None
    first = conditional.create(uri, b"first")
    assert first == conditional.read(uri)
    assert conditional.create(uri, b"other") is None
    second = conditional.replace(uri, b"second, longer", first)
    assert second == conditional.read(uri)
    assert second.data == b"second, longer"
    assert conditional.replace(uri, b"third", first) is None
    conditional.remove(uri, first)
    assert conditional.read(uri) == second
    conditional.remove(uri, second)
    assert conditional.read(uri) is None
    assert conditional.replace(uri, b"third", second) is None
    conditional.remove(uri, second)
    assert storage.list_files(storage.parent(uri)) == []


@pytest.mark.parametrize("uri", ["local", "S3"], indirect=True)
def test_of_ten_one_creates(uri):
    winners = race(lambda data: conditional.create(uri, data))
    assert winners == [conditional.read(uri)]


def test_nobody_sees_half_of_what_is_created(tmp_path):
    whole = b"x" * 2**16
    uris = [str(tmp_path / f"{number}") for number in range(15)]

    def look() -> list[int]:
        """Length of each object when it was first seen."""
        lengths = []
        for uri in uris:
            while (seen := conditional.read(uri)) is None:
                pass
            lengths.append(len(seen.data))
        return lengths

    with ThreadPoolExecutor(1) as pool:
        looks = pool.submit(look)
        for uri in uris:
            conditional.create(uri, whole)
        assert set(looks.result()) == {len(whole)}


def test_a_disk_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    uri = str(tmp_path / "object")
    assert conditional.create(uri, b"first") == conditional.read(uri)
    assert conditional.create(uri, b"other") is None
    assert conditional.read(uri).data == b"first"
    assert os.listdir(tmp_path) == ["object"]


def test_a_full_disk_without_hard_links(tmp_path, monkeypatch):
    """What does not come to its end is not there."""

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space"):
        conditional.create(str(tmp_path / "object"), b"first")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_of_ten_one_replaces(uri):
    seen = conditional.create(uri, b"first")
    for number in range(20):
        text = b"%d by " % number
        winners = race(lambda data, t=text, s=seen: conditional.replace(uri, t + data, s))
        assert winners == [conditional.read(uri)]
        seen = winners[0]


@pytest.mark.parametrize("uri", ["S3"], indirect=True)
def test_of_ten_that_replace_the_last_one_wins(uri):
    """This server looks, then writes: now and then two win. The object is that of one of them."""
    seen = conditional.create(uri, b"first")
    winners = race(lambda data: conditional.replace(uri, b"by " + data, seen))
    assert conditional.read(uri) in winners


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_nothing_is_left_beside_it(uri):
    seen = conditional.create(uri, b"first")
    race(lambda data: conditional.replace(uri, data, seen))
    assert os.listdir(os.path.dirname(uri)) == ["object"]


@pytest.mark.parametrize("uri", ["S3"], indirect=True)
def test_a_write_sent_twice_is_not_taken_for_anothers(uri, monkeypatch):
    """The answer to the first PUT is lost; the second one meets what the first one wrote."""
    once = s3fs.S3FileSystem._call_s3

    async def twice(self, method, *given, **named):
        if method == "put_object":
            await once(self, method, *given, **named)
        return await once(self, method, *given, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", twice)
    first = conditional.create(uri, b"first")
    assert first == conditional.read(uri)
    assert conditional.replace(uri, b"second", first) == conditional.read(uri)


@pytest.mark.parametrize("uri", ["S3"], indirect=True)
def test_a_conflict_is_tried_again(uri, monkeypatch):
    """S3 answers 409 where another write of the name, perhaps our own sent twice, is under way."""
    once, conflicts = s3fs.S3FileSystem._call_s3, []

    async def conflicting(self, method, *given, **named):
        if method == "put_object" and not conflicts:
            conflicts.append(named)
            answer = {
                "Error": {"Code": "ConditionalRequestConflict", "Message": "try again"},
                "ResponseMetadata": {"HTTPStatusCode": 409},
            }
            raise translate_boto_error(ClientError(answer, "PutObject"))
        return await once(self, method, *given, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", conflicting)
    assert conditional.create(uri, b"first") == conditional.read(uri)
    assert len(conflicts) == 1


@pytest.mark.parametrize("uri", ["S3"], indirect=True)
def test_a_server_without_conditions(uri, monkeypatch):
    once = s3fs.S3FileSystem._call_s3

    async def refuse(self, method, *given, **named):
        if {"IfMatch", "IfNoneMatch"} & named.keys():
            raise OSError(errno.ENOSYS, "NotImplemented")
        return await once(self, method, *given, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refuse)
    first = conditional.create(uri, b"first")
    assert first == conditional.read(uri)
    assert conditional.create(uri, b"other") is None
    assert conditional.replace(uri, b"second", first) == conditional.read(uri)
    assert conditional.replace(uri, b"third", first) is None
    # Sent again, since its answer was lost: what is there is ours.
    assert conditional.create(uri, b"second") == conditional.read(uri)


def test_errors_say_what_to_do(tmp_path, s3_uri):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*check the path and its permissions"):
        conditional.create(str(tmp_path / "file" / "object"), b"")
    with pytest.raises(InputError, match=r"cannot write s3://no-such-bucket/object: .*bucket"):
        conditional.create("s3://no-such-bucket/object", b"")
