"""Which errors are tried again, for how long, and what is said of the others."""

import errno
import socket

import pytest
from botocore import exceptions as boto

from avader.errors import InputError, StorageError
from avader.io import local, retry, storage
from avader.io.refusals import refusal


def answer(code: str, status: int) -> boto.ClientError:
    said = {"Error": {"Code": code, "Message": "text"}}
    return boto.ClientError(said | {"ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


PASSING = [
    answer("SlowDown", 503),
    answer("InternalError", 500),
    answer("503", 503),  # of a HEAD, which has no body
    answer("TooManyRequests", 429),
    answer("BadDigest", 400),
    # A lost answer to the upload's last request, or a clean-up: the upload is made again.
    caused(FileNotFoundError("x"), answer("NoSuchUpload", 404)),
    caused(OSError(errno.EBUSY, "x"), answer("SlowDown", 503)),  # as s3fs translates it
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError(),
    boto.ReadTimeoutError(endpoint_url="x"),
    boto.EndpointConnectionError(endpoint_url="x"),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    caused(
        boto.EndpointConnectionError(endpoint_url="x"), socket.gaierror(socket.EAI_AGAIN, "later")
    ),
]
LASTING = [
    caused(PermissionError("x"), answer("AccessDenied", 403)),
    answer("SignatureDoesNotMatch", 403),
    answer("InvalidAccessKeyId", 403),
    answer("NoSuchKey", 404),
    FileNotFoundError("x"),
    boto.NoCredentialsError(),
    caused(
        boto.EndpointConnectionError(endpoint_url="x"), socket.gaierror(socket.EAI_NONAME, "none")
    ),
    boto.SSLError(endpoint_url="x", error="CERTIFICATE_VERIFY_FAILED"),
    OSError(errno.ENOSPC, "full"),
    ValueError("a bug"),
    caused(StorageError("tried for long enough"), answer("SlowDown", 503)),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_passing(error):
    assert retry.is_passing(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_lasting(error):
    assert not retry.is_passing(error)


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds: float):
        self.slept.append(seconds)
        self.now += seconds

    def patiently(self, call):
        return retry.patiently(call, "read x", clock=lambda: self.now, sleep=self.sleep)


def failing(times: int, error: BaseException):
    errors = iter([error] * times)

    def call():
        for each in errors:
            raise each
        return "done"

    return call


def test_waits_grow_with_full_jitter_up_to_a_longest():
    many = [Clock() for _ in range(200)]
    for clock in many:
        assert clock.patiently(failing(9, TimeoutError())) == "done"
    for tries, waits in enumerate(zip(*(clock.slept for clock in many), strict=True)):
        longest = min(20.0, 0.5 * 2**tries)
        assert max(waits) <= longest
        assert min(waits) < 0.1 * longest  # full jitter: from nothing
        assert 0.4 * longest < sum(waits) / len(waits) < 0.6 * longest


def test_gives_up_at_the_limit_and_says_how_long(monkeypatch, caplog):
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", "60")
    clock = Clock()
    with pytest.raises(
        StorageError, match=r"cannot read x: tried \d+ times in 60.0 s, at last"
    ) as e:
        clock.patiently(failing(10_000, answer("SlowDown", 503)))
    assert "SlowDown: text" in str(e.value)
    assert clock.now == pytest.approx(60)
    (line,) = caplog.messages  # once an operation, and not for a short trouble
    assert "trying on until 60 s" in line


def test_lasting_errors_come_through_at_once():
    clock = Clock()
    with pytest.raises(PermissionError):
        clock.patiently(failing(1, PermissionError("x")))
    assert clock.slept == []


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan", ""])
def test_a_limit_that_is_no_time(monkeypatch, text):
    monkeypatch.setenv("AVADER_STORAGE_SECONDS", text)
    with pytest.raises(InputError, match="wanted seconds in AVADER_STORAGE_SECONDS"):
        retry.seconds_limit()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (answer("RequestTimeTooSkewed", 403), "the clocks of this machine and the server differ"),
        (caused(PermissionError(), answer("ExpiredToken", 400)), "AWS_SESSION_TOKEN is no longer"),
        (caused(PermissionError(), answer("AccessDenied", 403)), "credentials may not write there"),
        (boto.NoCredentialsError(), "give credentials by AWS_ACCESS_KEY_ID"),
        (answer("NoSuchBucket", 404), "there is no bucket b at AWS_ENDPOINT_URL"),
        (answer("InsufficientStorage", 507), "the storage is full"),
        (answer("PreconditionFailed", 412), "it was replaced while it was read"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_refusals_of_s3_have_their_own_words(error, words):
    assert not retry.is_passing(error)
    text = refusal(error, verb="write", where="s3://b/x", on_s3=True)
    assert text.startswith("cannot write s3://b/x: ")
    assert words in text


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EDQUOT, "the disk is full: make room"),
        (errno.EACCES, "this user may not write there"),
        (errno.EROFS, "this user may not write there"),
    ],
)
def test_refusals_of_the_disk_come_at_once(monkeypatch, tmp_path, number, words):
    calls = []

    def write(path, data):
        calls.append(path)
        raise OSError(number, "refused", path)

    monkeypatch.setattr(local, "write", write)
    with pytest.raises(InputError, match=f"cannot write .*{words}"):
        storage.write_bytes(str(tmp_path / "x"), b"x")
    assert len(calls) == 1
