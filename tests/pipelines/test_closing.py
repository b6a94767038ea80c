"""The summary at the end of a classification, said and posted."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from avader import config
from avader.catalogue.rows import Reject
from avader.errors import InputError, StorageError
from avader.images.checks import Reason
from avader.io.manifest import read_manifest
from avader.io.models import ModelFiles
from avader.pipelines import closing
from avader.pipelines.closing import close, summary
from tests.catalogues import COMPONENTS, classified, write_folder

ROWS = 400


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    return read_manifest(write_folder(folder, classified(ROWS), per_part=150))


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "avader")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def server():
    """An address, and what was posted to it; it answers what the last element says."""
    posted: list[dict] = []
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            posted.append(json.loads(self.rfile.read(length)))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/hook?key=secret", posted, status
        served.shutdown()
        thread.join()


def model(**result) -> ModelFiles:
    return ModelFiles({}, {}, {"result": result} if result else {}, "d" * 64)


def of(table) -> list[int]:
    return np.bincount(table["component"].to_numpy(), minlength=COMPONENTS).tolist()


def test_a_survey_like_the_training_images(written, lines):
    occupancy = of(classified(ROWS))
    likelihood = float(np.mean(classified(ROWS)["log_likelihood"].to_numpy()))
    known = model(occupancy=[3 * count for count in occupancy], mean_log_likelihood=likelihood)
    close(written, known, out="catalogue", address=None)
    shares = " ".join(map(str, occupancy))
    assert lines() == [
        f"classified {ROWS} cutouts (0 rejects) into catalogue",
        f"  galaxies of each component: {shares}",
    ]
    figures = summary(written, known)
    assert figures["drift"]["distance"] == pytest.approx(0)
    assert figures["drift"]["nats"] == pytest.approx(0, abs=1e-6)


def test_a_survey_unlike_them_is_warned_of_and_posted(written, lines, server):
    address, posted, _ = server
    other = model(occupancy=[1000] + [0] * (COMPONENTS - 1), mean_log_likelihood=50.0)
    close(written, other, out="catalogue", address=address)
    said = lines()
    assert said[2].startswith("  warning: components are filled otherwise")
    assert said[3].startswith("  warning: the mean log p(z) is ")
    (content,) = posted
    assert content["text"] == "\n".join(said)
    assert content["rows"] == ROWS
    assert content["occupancy"] == of(classified(ROWS))
    assert len(content["warnings"]) == 2


def test_a_model_that_says_nothing_of_its_training(written, lines):
    close(written, model(), out="catalogue", address=None)
    assert len(lines()) == 2
    assert summary(written, model())["drift"] is None


def test_rejects_by_reason(tmp_path, lines):
    reasons = [Reason.NOT_FINITE, Reason.UNREADABLE, Reason.NOT_FINITE]
    refused = [Reject(f"g{number}", reason, "why") for number, reason in enumerate(reasons)]
    out = write_folder(tmp_path, classified(10), per_part=5, refused=refused)
    close(read_manifest(out), model(), out="catalogue", address=None)
    assert lines()[0] == "classified 10 cutouts (3 rejects) into catalogue"
    assert lines()[2:] == ["  rejects: 2 not_finite", "  rejects: 1 unreadable"]


def test_an_address_that_fails_is_a_line_without_its_secret(written, lines, server):
    address, posted, status = server
    status[0] = 500
    close(written, model(), out="catalogue", address=address)
    assert len(posted) == 1
    where = address.partition("?")[0]
    assert lines()[-1] == (f"  the summary was not taken by {where}: HTTPError; all else is done")


def test_a_summary_that_storage_refuses_is_a_line(written, lines, monkeypatch):
    """The catalogue is there: its increments go on."""

    def fails(*_):
        raise StorageError("cannot read s3://sky/part")

    monkeypatch.setattr(closing, "summary", fails)
    close(written, model(), out="catalogue", address=None)
    assert lines() == [
        "classified into catalogue; its summary could not be made: cannot read s3://sky/part"
    ]


def test_an_address_that_is_none():
    given = ["--model", "m", "--data", "d", "--out", "o", "--summary-url", "hook"]
    with pytest.raises(InputError, match=r"^--summary-url: wanted http://\.\.\. or https"):
        config.parse("classify", given, read_text=str, recipe_text=str)
