"""Objects by URI, on local disk or S3: read, list, and write whole or not at all.

On S3 what may pass (load, time-outs, broken connections, short bodies) is tried again for
AVADER_STORAGE_SECONDS, 300 by default, and ends in a StorageError; what will not (permission, a
name that is not there, a full disk) is an InputError at once. Local disk is asked once.
"""

import mmap
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import IO, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import fsspec
import pyarrow.fs as arrow
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.core import split_protocol, url_to_fs
from fsspec.utils import glob_translate

from avader.errors import InputError, StorageError
from avader.io import local, s3
from avader.io.refusals import refusal
from avader.io.retry import client_error, code_of, patiently

T = TypeVar("T")

# What a storage that cannot be used raises: no such bucket, refused credentials, no route.
STORAGE_ERRORS = (OSError, ValueError, ImportError, BotoCoreError, ClientError)
# Objects that a process writes to S3 at once, one request each; more threads wait for their turn.
# Stores answer many writers with SlowDown (ray#36690); a writer that backs off keeps its place.
WRITERS = 8
_writing = threading.BoundedSemaphore(WRITERS)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI and the path in it.

    Raises InputError for an unknown scheme. S3 takes endpoint, region and credentials from the
    environment (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, ...).
    """
    options = s3.OPTIONS if _is_s3(uri) else {}
    try:
        if "::" in uri and (_is_s3(uri) or "://" not in uri):
            # A name like another, which fsspec takes for a file within a file.
            fs = fsspec.filesystem(split_protocol(uri)[0] or "file", **options)
            path = fs._strip_protocol(uri)
        else:
            fs, path = url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"wanted a local path or a URI such as s3://bucket/folder, got {uri!r}: {error}"
        ) from error
    if _is_s3(uri):
        fs.retries = s3.RETRIES
    return fs, path


def arrow_filesystem(uri: str) -> tuple[arrow.FileSystem, str]:
    """Arrow's own file system for a URI, and the path in it; for local disk and S3 without Python.

    Arrow reads with threads that may outlive a call, and one that holds a Python object when the
    interpreter closes aborts the process.
    """
    fs, path = filesystem(uri)
    if "file" in fs.protocol:
        return arrow.LocalFileSystem(), path
    if _is_s3(uri):
        return s3.arrow_filesystem(), path
    return arrow.PyFileSystem(arrow.FSSpecHandler(fs)), path


def is_local(uri: str) -> bool:
    """Whether the URI names the local disk."""
    return "file" in filesystem(uri)[0].protocol


def join(uri: str, *names: str) -> str:
    """The URI of something below a folder URI."""
    return "/".join([uri.rstrip("/"), *names]) if uri.rstrip("/") else "/" + "/".join(names)


def parent(uri: str) -> str:
    """The URI of the folder that holds this one's object."""
    head, slash, _ = uri.rstrip("/").rpartition("/")
    return (head or "/") if slash else "."


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that workers elsewhere in the tree find it; of
    S3 under its own name."""
    if uri.startswith("s3a://"):  # Hadoop's name for it; listings say s3
        uri = uri.replace("s3a", "s3", 1)
    return filesystem(uri)[1] if is_local(uri) else uri.rstrip("/")


def public_uri(uri: str) -> str:
    """The URI as it may be recorded: without user, password or query."""
    if "://" not in uri:
        return uri
    if _is_s3(uri):  # where ? and # are letters like others
        scheme, _, rest = uri.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def exists(uri: str) -> bool:
    """Whether an object or folder is there."""
    fs, path = filesystem(uri)
    ask = local.exists if is_local(uri) else partial(s3.exists, fs)
    return bool(attempt("read", uri, partial(ask, path)))


def check_writable(uri: str) -> None:
    """Raise InputError where it can be seen on local disk that no object can be written here."""
    fs, path = filesystem(uri)
    if "file" in fs.protocol:
        attempt("write", uri, partial(local.check_writable, path))


def open_input(uri: str) -> IO[bytes]:
    """A seekable binary file to read from; on S3 it fetches what is asked for, not 50 MB ahead.

    There its reads raise as the other functions do, InputError where the object was replaced too.
    """
    fs, path = filesystem(uri)
    if _is_s3(uri):
        return s3.open_input(fs, path, partial(attempt, "read", uri))
    options = {} if is_local(uri) else {"cache_type": "none"}
    return attempt("read", uri, partial(fs.open, path, "rb", **options))


def read_bytes(uri: str) -> bytes:
    """The whole object. Raises InputError where it cannot be read."""
    fs, path = filesystem(uri)
    return cast("bytes", attempt("read", uri, partial(fs.cat_file, path)))


def read_text(uri: str) -> str:
    """The whole object as UTF-8 text."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"wanted UTF-8 text in {public_uri(uri)}: {error}") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write an object whole or not at all, replacing what was there.

    Local: written aside under a hidden name, synced, then renamed. S3: one PUT, or one completed
    multipart upload, by at most WRITERS threads at once. Raises InputError where the place cannot
    be written.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        attempt("write", uri, partial(local.write, path, (data,)))
    else:
        _put(uri, fs, path, data)


def write_chunks(uri: str, chunks: Iterable[bytes]) -> None:
    """As write_bytes, of an object too large to hold at once, given piece by piece.

    In remote storage: collected in a temporary file of this machine, and sent when it is whole.
    Where making a chunk fails, nothing is written, and its error comes as it is.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        _write_made("write", uri, chunks, partial(local.write, path))
        return
    with tempfile.TemporaryFile() as spool:
        _write_made("write", tempfile.gettempdir(), chunks, spool.writelines)
        spool.flush()
        with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _put(uri, fs, path, data)


def _write_made(
    verb: str, uri: str, chunks: Iterable[bytes], write: Callable[[Iterable[bytes]], None]
) -> None:
    """Write chunks as they are made; an error of the making is not the storage's."""
    failed: list[Exception] = []

    def made() -> Iterator[bytes]:
        try:
            yield from chunks
        except Exception as error:
            failed.append(error)
            raise

    try:
        attempt(verb, uri, partial(write, made()))
    except InputError:
        if failed:
            raise failed[0] from None
        raise


def _put(uri: str, fs: fsspec.AbstractFileSystem, path: str, data: bytes | mmap.mmap) -> None:
    with _writing:
        attempt("write", uri, partial(s3.write if _is_s3(uri) else _pipe, fs, path, data))


def _pipe(fs: fsspec.AbstractFileSystem, path: str, data: bytes | mmap.mmap) -> None:
    fs.pipe_file(path, data[:])


def remove(uri: str) -> None:
    """Remove an object, or a folder with all below it; nothing where it is absent."""
    fs, path = filesystem(uri)
    attempt("remove", uri, partial(s3.remove if _is_s3(uri) else _remove, fs, path))


def _remove(fs: fsspec.AbstractFileSystem, path: str) -> None:
    if fs.exists(path):
        fs.rm(path, recursive=True)


def remove_asides(uri: str) -> None:
    """Remove what killed writers left below a folder: files aside, on S3 unfinished uploads."""
    fs, folder = filesystem(uri)
    if _is_s3(uri):
        attempt("remove", uri, partial(s3.abort_uploads, fs, folder))
    elif is_local(uri):
        local.remove_asides(folder)


def list_files(uri: str, suffixes: Sequence[str] = ()) -> list[str]:
    """URIs of all objects below a folder, in order of path; hidden ones are left out.

    suffixes: endings to keep, lower case (".png"); empty keeps all. An absent folder is empty.
    """
    fs, path = filesystem(uri)
    look = partial(local.find, path, _is_shown) if is_local(uri) else partial(s3.find, fs, path)
    found: list[str] = attempt("read", uri, look)
    root = path.rstrip("/") + "/"
    return [
        _with_scheme(fs, name)
        for name in sorted(found)
        if name.startswith(root)
        and not any(part.startswith(".") for part in PurePosixPath(name[len(root) :]).parts)
        and (not suffixes or name.lower().endswith(tuple(suffixes)))
    ]


def _is_shown(folder: str) -> bool:
    return not PurePosixPath(folder).name.startswith(".")


def list_below(uri: str, folder: str) -> list[str]:
    """Paths below a folder URI, of all objects in a folder within it, in order."""
    root = filesystem(uri)[1].rstrip("/") + "/"
    found = list_files(join(uri, folder))
    return [filesystem(name)[1].removeprefix(root) for name in found]


def sizes(uris: Sequence[str]) -> list[int]:
    """Bytes of each object, in the order given, from one listing of each folder.

    Raises InputError where one is not there.
    """
    listed: dict[str, dict[str, int]] = {}
    found = []
    for uri in uris:
        folder, name = parent(uri), uri.rpartition("/")[2]
        if folder not in listed:
            fs, path = filesystem(folder)
            entries = attempt("read", folder, partial(fs.ls, path, detail=True))
            listed[folder] = {e["name"].rpartition("/")[2]: int(e["size"] or 0) for e in entries}
        if name not in listed[folder]:
            raise InputError(f"wanted an object at {public_uri(uri)}, came none: check the path")
        found.append(listed[folder][name])
    return found


def glob_files(pattern: str) -> list[str]:
    """URIs of the objects that match a glob (`*`, `?`, `[..]`, `**`), in order of path."""
    fs, path = filesystem(pattern)
    look = partial(_glob, path) if is_local(pattern) else partial(s3.glob, fs, path)
    return [_with_scheme(fs, name) for name in sorted(attempt("read", pattern, look))]


def _glob(path: str) -> list[str]:
    """Files that match a pattern; no folder is looked into that leads to none."""
    steps = path.split("/")
    whole = re.compile(glob_translate(path)).match
    # Of a folder at each depth; below ** there may be a file anywhere.
    depth = next((n for n, step in enumerate(steps) if "**" in step), len(steps))
    leading = [re.compile(glob_translate("/".join(steps[: n + 1]))).match for n in range(depth)]

    def leads_on(folder: str) -> bool:
        n = folder.count("/")
        return n >= depth if n >= len(leading) else bool(leading[n](folder))

    return [name for name in local.find(s3.fixed_folder(path), leads_on) if whole(name)]


def is_glob(uri: str) -> bool:
    """Whether a URI holds glob characters."""
    return any(character in uri for character in "*?[")


def _with_scheme(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if "file" in fs.protocol else str(fs.unstrip_protocol(path))


def _is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


def attempt(verb: str, uri: str, call: Callable[[], T]) -> T:
    """The call's result: in remote storage with patience, on local disk at the first try.

    What is refused for good becomes an InputError in words.
    """
    try:
        return call() if is_local(uri) else patiently(call, f"{verb} {public_uri(uri)}")
    except (StorageError, InputError):
        raise
    except STORAGE_ERRORS as error:
        text = refusal(error, verb=verb, where=public_uri(uri), on_s3=_is_s3(uri))
        # A bucket that is not there is not one object's absence, which a caller may forgive.
        lost = code_of(error) == "NoSuchBucket"
        raise InputError(text) from (client_error(error) if lost else error)
