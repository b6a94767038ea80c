"""A server that behaves like SDSS ImgCutout and the viewer of the Legacy Surveys, faults included.

Images are drawn from position, scale and size alone, so that a test knows what must come. Faults
come by a schedule: the n-th request for one object meets the n-th fault of its list.
"""

import contextlib
import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
from astropy.io import fits
from PIL import Image, ImageDraw

# Declinations below this are not in either survey.
SOUTH = -30.0
SDSS_PATH = "/dr17/SkyServerWS/ImgCutout/getjpeg"
HTML = b"<!DOCTYPE html><html><body>Something went wrong, try later</body></html>"


def sky(ra: float, dec: float, scale: float, size: int) -> np.ndarray:
    """Light (size, size), 0 to 255, of a galaxy 3 arcsec wide on a noisy sky."""
    generator = np.random.default_rng([round(abs(ra) * 1e4), round(abs(dec) * 1e4)])
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * scale
    light = 200 * np.exp(-(x**2 + 2 * y**2) / (2 * 3.0**2))
    return light + generator.uniform(5, 25, light.shape)


def jpeg(light: np.ndarray) -> bytes:
    pixels = np.stack([light, 0.8 * light, 0.6 * light], axis=-1).astype(np.uint8)
    return _saved(Image.fromarray(pixels))


def outside_jpeg(size: int) -> bytes:
    """What ImgCutout draws where it has nothing: words on black."""
    picture = Image.new("RGB", (size, size))
    ImageDraw.Draw(picture).text((2, 2), "Requested (ra, dec) is\noutside the SDSS\nfootprint.")
    return _saved(picture)


def _saved(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "jpeg", quality=95)
    return sink.getvalue()


def fits_cube(light: np.ndarray, bands: str) -> bytes:
    """Planes (bands, H, W) as the viewer writes them: one band alone is an image, not a cube."""
    planes = np.stack([(number + 1) * light for number in range(len(bands))]).astype(np.float32)
    sink = io.BytesIO()
    fits.PrimaryHDU(planes if len(bands) > 1 else planes[0]).writeto(sink)
    return sink.getvalue()


class Service:
    """The server in a thread: `url`, what was asked, and which faults come.

    faults: from "ra,dec" as asked and the number of the request for it, from 0, the fault that it
    meets: "" for none; "status:503", with "+0.5" for Retry-After; "html" (an error page with
    status 200); "outside" (said with status 404); "reset"; "slow:0.5" (seconds); "cut" and
    "cut-unseen" (half a body, with and without its length); "size" (8 px less than asked);
    "endless".
    """

    def __init__(self) -> None:
        self.faults: Callable[[str, int], str] = lambda place, number: ""
        self.counts: Counter[str] = Counter()
        self.requests: list[tuple[float, str, dict[str, str], str]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"of": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def asked(self, path: str, query: dict[str, str], agent: str) -> str:
        """Note a request; the fault that it meets, "" for none."""
        place = f"{query.get('ra')},{query.get('dec')}"
        with self.lock:
            number = self.counts[place]
            self.counts[place] += 1
            self.requests.append((time.monotonic(), path, query, agent))
            return self.faults(place, number)


class Handler(BaseHTTPRequestHandler):
    """One request: a fault, or the image."""

    of: ClassVar[Service]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        fault = self.of.asked(parts.path, query, self.headers["User-Agent"])
        kind, _, value = fault.partition(":")
        if kind == "status":
            status, _, after = value.partition("+")
            self.answer(int(status), "text/html", HTML, **({"Retry-After": after} if after else {}))
        elif kind == "outside":
            self.answer(404, "text/plain", b"Requested (ra, dec) is outside the SDSS footprint.")
        elif kind == "html":
            self.answer(200, "text/html", HTML)
        elif kind == "endless":
            self.endless()
        elif kind == "reset":
            self.connection.close()
        else:
            if kind == "slow":
                time.sleep(float(value))
            self.image(parts.path, query, kind)

    def endless(self) -> None:
        """Bytes without an end, until the client has had enough."""
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(2**16))

    def image(self, path: str, query: dict[str, str], kind: str) -> None:
        size = int(query.get("size") or query["width"])
        size = min(size, 3000) - 8 * (kind == "size")
        scale = float(query.get("pixscale") or query["scale"])
        ra, dec = float(query["ra"]), float(query["dec"])
        light = sky(ra, dec, scale, size)
        if path == SDSS_PATH:
            data = jpeg(light) if dec > SOUTH else outside_jpeg(size)
        elif path == "/viewer/jpeg-cutout":
            data = jpeg(light if dec > SOUTH else np.full_like(light, 33))
        elif path == "/viewer/fits-cutout":
            data = fits_cube(light * (dec > SOUTH), query["bands"])
        else:
            self.answer(404, "text/html", HTML)
            return
        self.answer(200, "image/fits" if "fits" in path else "image/jpeg", data, cut=kind)

    def answer(self, status: int, kind: str, data: bytes, *, cut: str = "", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name, value)
        if cut != "cut-unseen":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut.startswith("cut") else data)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def schedule(seed: int, most: int) -> Callable[[str, int], str]:
    """Faults of every kind that passes: up to `most` in a row for one object, by seed and place."""
    kinds = ["status:503", "status:429+0.05", "status:500", "status:502+0", "reset", "html"]
    kinds += ["cut", "cut-unseen", "slow:0.05", "size"]

    def fault(place: str, number: int) -> str:
        generator = np.random.default_rng([seed, *place.encode()])
        count = generator.integers(0, most + 1)
        return str(generator.choice(kinds, most)[number]) if number < count else ""

    return fault
