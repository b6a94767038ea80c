"""avader.io.storage on a real S3 server."""

import threading

import fsspec
import pytest

from avader.errors import InputError, StorageError
from avader.io import storage


@pytest.fixture
def refused(s3, s3_uri, monkeypatch):
    """A prefix, with credentials that the server does not know."""
    import s3fs

    if not s3.checks:
        pytest.skip("this server takes any credentials")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-password")
    s3fs.S3FileSystem.clear_instance_cache()
    return s3_uri


def test_round_trip(s3_uri):
    uri = storage.join(s3_uri, "parts", "00000000.parquet")
    data = bytes(range(256)) * 40
    assert not storage.exists(uri)
    storage.write_bytes(uri, data)
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == data
    with storage.open_input(uri) as file:
        file.seek(-6, 2)
        assert file.read() == data[-6:]


def test_round_trip_of_several_parts(s3_uri):
    """Beyond the size of one PUT the object is a multipart upload: whole all the same."""
    uri = storage.join(s3_uri, "large")
    data = bytes(range(256)) * (4 * 60 * 1024)
    storage.write_bytes(uri, data)
    assert storage.read_bytes(uri) == data


def test_chunks_make_one_object_whole_or_absent(s3_uri):
    uri = storage.join(s3_uri, "chunks")
    piece = bytes(range(256)) * 4096
    storage.write_chunks(uri, (piece for _ in range(60)))  # beyond the size of one PUT
    assert storage.read_bytes(uri) == piece * 60

    def failing():
        yield b"new"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage.write_chunks(uri, failing())
    assert len(storage.read_bytes(uri)) == 60 * len(piece)
    with pytest.raises(InputError, match="bucket"):
        storage.write_chunks("s3://no-such-bucket/object", [b"x"])


def test_replaces_what_was_there(s3_uri):
    uri = storage.join(s3_uri, "manifest.json")
    storage.write_bytes(uri, b"a longer first text")
    storage.write_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"second"


def test_a_reader_sees_one_writer_whole(s3_uri):
    """Two writers of one name, as after a killed driver: readers get either, never a mix."""
    uri = storage.join(s3_uri, "part")
    texts = [bytes([letter]) * 200_000 for letter in b"ab"]
    storage.write_bytes(uri, texts[0])
    writers = [
        threading.Thread(target=lambda t=text: [storage.write_bytes(uri, t) for _ in range(8)])
        for text in texts
    ]
    for writer in writers:
        writer.start()
    seen = {storage.read_bytes(uri) for _ in range(12)}
    for writer in writers:
        writer.join()
    assert seen | {storage.read_bytes(uri)} <= set(texts)


def test_lists_recursively_in_order_and_by_suffix(s3_uri):
    names = ["b/2.png", "a.png", "b/1.PNG", "b/notes.txt", "b/c/3.fits.gz"]
    for name in names:
        storage.write_bytes(storage.join(s3_uri, name), b"x")
    listed = storage.list_files(s3_uri)
    assert listed == sorted(storage.join(s3_uri, name) for name in names)
    images = storage.list_files(s3_uri, suffixes=(".png", ".fits.gz"))
    assert images == [uri for uri in listed if not uri.endswith(".txt")]
    assert storage.list_files(storage.join(s3_uri, "absent")) == []


def test_lists_what_another_writer_added_since(s3_uri, s3):
    storage.write_bytes(storage.join(s3_uri, "first"), b"x")
    assert len(storage.list_files(s3_uri)) == 1
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(storage.join(s3_uri, "second"), b"x")
    assert len(storage.list_files(s3_uri)) == 2
    assert storage.exists(storage.join(s3_uri, "second"))


def test_lists_more_than_a_page(s3_uri):
    """The server answers 1,000 names at a time."""
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.pipe({storage.join(s3_uri, f"{number:04d}"): b"" for number in range(1_100)})
    assert len(storage.list_files(s3_uri)) == 1_100


def test_absent_object(s3_uri):
    with pytest.raises(InputError, match="cannot read s3://"):
        storage.read_bytes(storage.join(s3_uri, "absent"))


def test_bad_credentials(refused):
    uri = storage.join(refused, "object")
    with pytest.raises(InputError, match="credentials"):
        storage.write_bytes(uri, b"x")
    with pytest.raises(InputError, match="credentials"):
        storage.read_bytes(uri)
    with pytest.raises(InputError, match="credentials"):
        storage.list_files(refused)


def test_secrets_stay_out_of_messages(refused, s3):
    with pytest.raises(InputError) as caught:
        storage.read_bytes(storage.join(refused, "object"))
    assert "wrong-password" not in str(caught.value)
    assert s3.access_key not in str(caught.value)


def test_missing_bucket(s3_uri):
    with pytest.raises(InputError, match="bucket"):
        storage.write_bytes("s3://no-such-bucket/object", b"x")
    with pytest.raises(InputError, match="bucket"):
        storage.read_bytes("s3://no-such-bucket/object")


def test_no_server(s3_uri, monkeypatch):
    """A server may be starting again: it is asked for the time given, then it is said."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "0.5")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"tried \d+ times in .*AWS_ENDPOINT_URL"):
        storage.read_bytes(storage.join(s3_uri, "object"))
