"""Objects by URI, on local disk or S3: read, list, and write whole or not at all."""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit, urlunsplit

import fsspec
import pyarrow.fs as arrow
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.core import url_to_fs

from avader.errors import InputError

# What a storage that cannot be used raises: no such bucket, refused credentials, no route.
STORAGE_ERRORS = (OSError, ValueError, ImportError, BotoCoreError, ClientError)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI and the path in it.

    Raises InputError for an unknown scheme. S3 takes endpoint, region and credentials from the
    environment (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, ...).
    """
    try:
        # A listing kept from before would hide what other workers wrote since.
        options = {"use_listings_cache": False} if uri.startswith("s3://") else {}
        fs, path = url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"wanted a local path or a URI such as s3://bucket/folder, got {uri!r}: {error}"
        ) from error
    return fs, path


def arrow_filesystem(uri: str) -> tuple[arrow.FileSystem, str]:
    """Arrow's own file system for a URI, and the path in it; for local disk and S3 without Python.

    Arrow reads with threads that may outlive a call, and one that holds a Python object when the
    interpreter closes aborts the process.
    """
    fs, path = filesystem(uri)
    if "file" in fs.protocol:
        return arrow.LocalFileSystem(), path
    if uri.startswith("s3://"):
        return _arrow_s3(), path
    return arrow.PyFileSystem(arrow.FSSpecHandler(fs)), path


def _arrow_s3() -> arrow.S3FileSystem:
    """S3 by the same environment variables that s3fs reads; credentials are found by Arrow."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return arrow.S3FileSystem(endpoint_override=endpoint, region=region)


def is_local(uri: str) -> bool:
    """Whether the URI names the local disk."""
    return "file" in filesystem(uri)[0].protocol


def join(uri: str, *names: str) -> str:
    """The URI of something below a folder URI."""
    return "/".join([uri.rstrip("/"), *names]) if uri.rstrip("/") else "/" + "/".join(names)


def parent(uri: str) -> str:
    """The URI of the folder that holds this one's object."""
    head, slash, _ = uri.rstrip("/").rpartition("/")
    return head if slash else "."


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that workers elsewhere in the tree find it."""
    return filesystem(uri)[1] if is_local(uri) else uri


def public_uri(uri: str) -> str:
    """The URI as it may be recorded: without user, password or query."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def exists(uri: str) -> bool:
    """Whether an object or folder is there."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.exists(path))
    except STORAGE_ERRORS as error:
        raise _unusable(uri, error) from error


def open_input(uri: str) -> IO[bytes]:
    """A seekable binary file to read from; on S3 it fetches what is asked for, not 50 MB ahead."""
    fs, path = filesystem(uri)
    options = {} if is_local(uri) else {"cache_type": "none"}
    try:
        return cast("IO[bytes]", fs.open(path, "rb", **options))
    except STORAGE_ERRORS as error:
        raise _unusable(uri, error) from error


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises InputError where it cannot be read."""
    fs, path = filesystem(uri)
    try:
        return cast("bytes", fs.cat_file(path))
    except STORAGE_ERRORS as error:
        raise _unusable(uri, error) from error


def read_text(uri: str) -> str:
    """The whole object as UTF-8 text."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"wanted UTF-8 text in {public_uri(uri)}: {error}") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write an object whole or not at all, replacing what was there.

    Local: written aside under a hidden name, synced, then renamed. S3: one PUT, or one completed
    multipart upload. Raises InputError where the place cannot be written.
    """
    fs, path = filesystem(uri)
    try:
        if is_local(uri):
            _write_aside(path, (data,))
        else:
            fs.pipe_file(path, data)
    except STORAGE_ERRORS as error:
        raise _unusable(uri, error, verb="write") from error


def write_chunks(uri: str, chunks: Iterable[bytes]) -> None:
    """As write_bytes, of an object too large to hold at once, given piece by piece.

    S3: collected in a temporary file of this machine, and uploaded when it is whole. Where making
    a chunk fails, nothing is written.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        with _refusing(uri, OSError):
            _write_aside(path, chunks)
        return
    with tempfile.NamedTemporaryFile() as spool:
        with _refusing(spool.name, OSError):
            spool.writelines(chunks)
            spool.flush()
        with _refusing(uri, *STORAGE_ERRORS):
            fs.put_file(spool.name, path)


@contextmanager
def _refusing(uri: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn these errors of a write into ours."""
    try:
        yield
    except errors as error:
        raise _unusable(uri, error, verb="write") from error


def _write_aside(path: str, chunks: Iterable[bytes]) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def remove(uri: str) -> None:
    """Remove an object, or a folder with all below it; nothing where it is absent."""
    fs, path = filesystem(uri)
    try:
        if fs.exists(path):
            fs.rm(path, recursive=True)
    except STORAGE_ERRORS as error:
        raise _unusable(uri, error, verb="remove") from error


def remove_asides(uri: str) -> None:
    """Remove what killed writers left aside in a local folder; nothing is left on S3."""
    if not is_local(uri):
        return
    folder = filesystem(uri)[1]
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if entry.name.startswith(".") and entry.name.endswith(".tmp") and not _is_alive(entry.name):
            os.unlink(entry.path)


def _is_alive(aside: str) -> bool:
    """Whether the process that writes this aside file still runs on this machine."""
    pid = aside.split(".")[-3]
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")


def list_files(uri: str, suffixes: Sequence[str] = ()) -> list[str]:
    """URIs of all objects below a folder, in order of path; hidden ones are left out.

    suffixes: endings to keep, lower case (".png"); empty keeps all. An absent folder is empty.
    """
    fs, path = filesystem(uri)
    try:
        found = fs.find(path)
    except FileNotFoundError:
        return []
    except STORAGE_ERRORS as error:
        raise _unusable(uri, error) from error
    root = path.rstrip("/") + "/"
    return [
        _with_scheme(fs, name)
        for name in sorted(found)
        if name.startswith(root)
        and not any(part.startswith(".") for part in PurePosixPath(name[len(root) :]).parts)
        and (not suffixes or name.lower().endswith(tuple(suffixes)))
    ]


def sizes(uris: Sequence[str]) -> list[int]:
    """Bytes of each object, in the order given, from one listing of each folder."""
    listed: dict[str, dict[str, int]] = {}
    found = []
    for uri in uris:
        folder, name = parent(uri), uri.rpartition("/")[2]
        if folder not in listed:
            fs, path = filesystem(folder)
            entries = fs.ls(path, detail=True)
            listed[folder] = {e["name"].rpartition("/")[2]: int(e["size"] or 0) for e in entries}
        found.append(listed[folder][name])
    return found


def glob_files(pattern: str) -> list[str]:
    """URIs of the objects that match a glob (`*`, `?`, `[..]`, `**`), in order of path."""
    fs, path = filesystem(pattern)
    try:
        return [_with_scheme(fs, name) for name in sorted(fs.glob(path)) if fs.isfile(name)]
    except STORAGE_ERRORS as error:
        raise _unusable(pattern, error) from error


def is_glob(uri: str) -> bool:
    """Whether a URI holds glob characters."""
    return any(character in uri for character in "*?[")


def _with_scheme(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if "file" in fs.protocol else str(fs.unstrip_protocol(path))


def _unusable(uri: str, error: Any, *, verb: str = "read") -> InputError:
    what = str(error) or type(error).__name__
    hint = (
        "check the bucket, AWS_ENDPOINT_URL and the credentials"
        if uri.startswith("s3://")
        else "check the path and its permissions"
    )
    return InputError(f"cannot {verb} {public_uri(uri)}: {what}; {hint}")
