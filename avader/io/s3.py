"""S3 by s3fs's requests: known numbers of attempts, whole objects, no upload left behind."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from mmap import mmap
from typing import IO, Any, TypeVar, cast

import pyarrow.fs as arrow
from botocore.exceptions import ClientError
from fsspec.utils import glob_translate

from avader.io.retry import code_of

T = TypeVar("T")

# Requests within one operation: see avader.io.retry for who tries again what.
ATTEMPTS = 3
RETRIES = 1
# A data set's requests: with Arrow's back-off (up to 20 s each) some 2 to 3 minutes.
ARROW_ATTEMPTS = 15
OPTIONS: dict[str, Any] = {
    # A listing kept from before would hide what other workers wrote since.
    "use_listings_cache": False,
    # One request at a time for each object, so that an object is read in one piece, of one version.
    "max_concurrency": 1,
    "config_kwargs": {
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        "connect_timeout": 10,
        "read_timeout": 60,
    },
}
# Objects of up to this size are one PUT, larger ones a multipart upload of parts of this size.
PART_BYTES = 32 * 2**20
# Names that one request may remove.
REMOVE_AT_ONCE = 1_000
MARKS = ("KeyMarker", "UploadIdMarker")
NO_LISTING = ("NotImplemented", "MethodNotAllowed")
"""What servers answer that list no uploads."""


def arrow_filesystem() -> arrow.S3FileSystem:
    """S3 by the same environment variables that s3fs reads; credentials are found by Arrow."""
    return arrow.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        connect_timeout=10,
        retry_strategy=arrow.AwsStandardS3RetryStrategy(max_attempts=ARROW_ATTEMPTS),
    )


def or_absent(call: Callable[[], T], absent: T) -> T:
    """The call's result, or what stands for a name that is not there; a bucket must be."""
    try:
        return call()
    except FileNotFoundError as error:
        if code_of(error) == "NoSuchBucket":
            raise
        return absent


def exists(fs: Any, path: str) -> bool:
    """Whether there is such an object or folder. s3fs takes any error of a bucket for a no."""
    return or_absent(lambda: bool(fs.info(path)), False)


def glob(fs: Any, path: str) -> list[str]:
    """Objects that match a pattern, by one listing of all below its fixed folder.

    s3fs's own glob leaves out, without a word, folders whose listing fails, and fsspec's isfile
    objects whose look-up does.
    """
    matches = re.compile(glob_translate(path)).match
    return [name for name in find(fs, fixed_folder(path)) if matches(name)]


def fixed_folder(path: str) -> str:
    """The folder above the first glob character of a path."""
    return re.split(r"[*?[]", path, maxsplit=1)[0].rpartition("/")[0]


def find(fs: Any, path: str) -> list[str]:
    """All objects below a folder; none where it is absent."""
    names: list[str] = or_absent(lambda: list(fs.find(path)), [])
    return names


def open_input(fs: Any, path: str, do: Callable[[Callable[[], Any]], Any]) -> IO[bytes]:
    """A seekable file of one version of an object, that fetches what is asked for, and all of it.

    do: calls what it is given, with patience, for the opening and for each range. Ranges are
    fetched by If-Match: an object replaced since is an error, never a mix of two.
    """
    file = do(partial(fs.open, path, "rb", cache_type="none"))
    fetch = file.cache.fetcher

    def fetch_whole(start: int, stop: int) -> bytes:
        data = cast("bytes", fetch(start, stop))
        wanted = min(stop, file.size) - start
        if len(data) != wanted:
            raise ConnectionError(f"wanted {wanted} bytes from {start}, came {len(data)}")
        return data

    file.cache.fetcher = lambda start, stop: do(partial(fetch_whole, start, stop))
    return cast("IO[bytes]", file)


def write(fs: Any, path: str, data: bytes | mmap) -> None:
    """One PUT, or one completed multipart upload; readers see the object whole or not at all.

    s3fs's own pipe_file loses an upload's parts where its abort meets an error too.
    """
    bucket, key, _ = fs.split_path(path)
    if len(data) <= PART_BYTES:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data[:])
        return
    begun = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    upload = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}
    try:
        parts = []
        for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
            body = data[start : start + PART_BYTES]
            sent = fs.call_s3("upload_part", **upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        fs.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell; see abort_uploads
            fs.call_s3("abort_multipart_upload", **upload)
        raise


def abort_uploads(fs: Any, folder: str) -> None:
    """Abort the uploads below a folder that killed writers left, which no reader sees.

    A writer that still lives begins its upload again. Where the credentials may not list uploads,
    or the server cannot, they stay until the bucket's own rule ends them.
    """
    bucket, key, _ = fs.split_path(folder.rstrip("/") + "/")
    try:
        uploads = _uploads(fs, bucket, key)
    except OSError as error:
        if isinstance(error, PermissionError) or code_of(error) in NO_LISTING:
            return
        raise
    for upload in uploads:
        with suppress(FileNotFoundError, PermissionError):
            fs.call_s3("abort_multipart_upload", Bucket=bucket, **upload)


def _uploads(fs: Any, bucket: str, prefix: str) -> list[dict[str, str]]:
    """Key and UploadId of the uploads that have begun and not ended."""
    found: list[dict[str, str]] = []
    page: dict[str, Any] = {"IsTruncated": True}
    while page.get("IsTruncated"):
        marks = {mark: page[f"Next{mark}"] for mark in MARKS if page.get(f"Next{mark}")}
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marks)
        found += [{n: each[n] for n in ("Key", "UploadId")} for each in page.get("Uploads", [])]
    return found


def remove(fs: Any, path: str) -> None:
    """Remove an object, or all below a folder. s3fs's own rm passes over refusals in silence."""
    bucket, key, _ = fs.split_path(path)
    keys = [fs.split_path(name)[1] for name in fs.find(path)]
    for first in range(0, len(keys), REMOVE_AT_ONCE):
        some = [{"Key": name} for name in keys[first : first + REMOVE_AT_ONCE]]
        answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": some})
        for refused in answer.get("Errors", []):
            raise _refused(refused)
    if key and key not in keys:
        fs.call_s3("delete_object", Bucket=bucket, Key=key)


def _refused(error: dict[str, Any]) -> Exception:
    """The error of one name among several, as that of a request of its own would be."""
    from s3fs.errors import translate_boto_error

    return cast("Exception", translate_boto_error(ClientError({"Error": error}, "DeleteObjects")))
