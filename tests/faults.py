"""A proxy before the S3 server that injects faults by a seeded schedule.

It forwards requests as they come, the signed Host header included: the client signs the proxy's
address, and the server checks the signature against that header, not against its own address.
"""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

# unavailable: 503 SlowDown, nothing forwarded; reset: the connection breaks (RST) before the
# request is forwarded; lost: after it was carried out, so that only the answer is lost;
# slow: the answer's body comes in drops; truncated: half of the body comes, then the end.
KINDS = ("unavailable", "reset", "lost", "slow", "truncated")
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
DROPS, DROP_SECONDS = 8, 0.05
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
NOT_FORWARDED = {"connection", "expect", "keep-alive", "transfer-encoding"}


class FaultProxy:
    """A proxy before `endpoint` ("http://host:port"), for use in a `with`.

    faults: the share of requests that meet each of KINDS; may be changed while it runs. Request n
    meets what `seed` and n say. injected counts what was injected, by kind; requests: "METHOD
    path?query" of each, in order of arrival. A body of no bytes can be neither slow nor truncated:
    its request goes through, not counted. drop_seconds: between two of a slow body's drops.
    """

    def __init__(self, endpoint: str, *, faults: Mapping[str, float], seed: int = 0) -> None:
        assert set(faults) <= set(KINDS), faults
        parts = urlsplit(endpoint)
        self.upstream = (parts.hostname, parts.port)
        self.faults, self.seed, self.drop_seconds = dict(faults), seed, DROP_SECONDS
        self.injected: Counter[str] = Counter()
        self.requests: list[str] = []
        self._lock = threading.Lock()
        methods = {f"do_{method}": _Handler.meet for method in METHODS}
        handler = type("Bound", (_Handler,), {"proxy": self, **methods})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        """The proxy's own URL, to be given to clients as AWS_ENDPOINT_URL."""
        return "http://{}:{}".format(*self._server.server_address)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Give back the port; of a proxy that was not started too."""
        self._server.server_close()

    def draw(self, request: str) -> str | None:
        """The fault of the next request, None for most."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        ball = random.Random(f"{self.seed}:{number}").random()
        for kind, share in self.faults.items():
            if ball < share:
                return kind
            ball -= share
        return None

    def count(self, kind: str) -> None:
        """Note a fault that has been injected."""
        with self._lock:
            self.injected[kind] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that went away is what the faults are for."""


class _Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def meet(self) -> None:
        """Inject a request's fault, or forward it and its answer."""
        body = b"".join(self._body())
        fault = self.proxy.draw(f"{self.command} {self.path}")
        if fault == "unavailable":
            self.proxy.count(fault)
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        elif fault == "reset":
            self.proxy.count(fault)
            self._reset()
        else:
            self._forward(body, fault)

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in NOT_FORWARDED | {"content-length"}:
                    upstream.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data, headers = answer.read(), answer.getheaders()
        finally:
            upstream.close()
        if fault == "lost":
            self.proxy.count(fault)
            self._reset()
        else:
            self._answer(answer.status, headers, data, fault if data else None)

    def _answer(self, status: int, headers, data: bytes, fault: str | None = None) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in NOT_FORWARDED | {"content-length"}:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self._send(data, fault)

    def _send(self, data: bytes, fault: str | None) -> None:
        if fault == "slow":
            self.proxy.count(fault)
            step = -(-len(data) // DROPS)
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                time.sleep(self.proxy.drop_seconds)
        elif fault == "truncated":
            self.proxy.count(fault)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _reset(self) -> None:
        """Close with RST instead of FIN: what a client sees as "connection reset by peer"."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Tests read counters, not logs."""
