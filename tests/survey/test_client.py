"""Asking a service, against a server that behaves like one; no Ray."""

import email.utils
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import avader
from avader.errors import InputError
from avader.images.checks import CutoutError, Reason
from avader.images.decode import decode_image
from avader.survey import client as module
from avader.survey.client import Client, Pace, Place
from avader.survey.services import Service
from tests.processes import wait_for
from tests.survey import server
from tests.survey.server import SDSS_PATH, schedule

HERE, SOUTH = Place(150.1, 2.2, 0.4), Place(150.1, -60.0, 0.4)
PLACES = [Place(10 + number / 7, number / 9, 0.3) for number in range(40)]


@pytest.fixture
def web():
    service = server.Service()
    yield service
    service.stop()


def service(web, name="sdss", **changes) -> Service:
    layer = "dr17" if name == "sdss" else "ls-dr10"
    bands = "" if name == "sdss" else "grz"
    asked = Service(name, layer, 64, 0.4, None, "jpeg", bands, web.url)
    return replace(asked, **changes)


def client(web, name="sdss", *, rate=500.0, patience=20.0, witness=None, **changes) -> Client:
    asked = service(web, name, **changes)
    return Client(asked, Pace(rate), rate=rate, patience=patience, witness=witness)


def always(kind: str):
    return lambda place, number: kind


class TestWhatIsAsked:
    def test_sdss(self, web):
        assert client(web).cutout(HERE) == server.jpeg(server.sky(150.1, 2.2, 0.4, 64))
        ((_, path, query, agent),) = web.requests
        assert path == SDSS_PATH
        assert query == {
            "ra": "150.1000000",
            "dec": "2.2000000",
            "scale": "0.4",
            "width": "64",
            "height": "64",
        }
        assert agent == f"avader/{avader.__version__}"

    def test_legacy_fits_keeps_the_bands_apart(self, web):
        came = client(web, "legacy", format="fits", bands="grz").cutout(HERE)
        light = server.sky(150.1, 2.2, 0.4, 64)
        np.testing.assert_allclose(
            decode_image(came).flux, np.stack([light, 2 * light, 3 * light]), rtol=1e-6
        )
        ((_, path, query, _),) = web.requests
        assert path == "/viewer/fits-cutout"
        assert query == {
            "ra": "150.1000000",
            "dec": "2.2000000",
            "layer": "ls-dr10",
            "pixscale": "0.4",
            "size": "64",
            "bands": "grz",
        }

    def test_legacy_of_one_band(self, web):
        came = client(web, "legacy", format="fits", bands="r").cutout(HERE)
        assert decode_image(came).flux.shape == (1, 64, 64)

    def test_right_ascension_below_0_goes_round(self, web):
        client(web, "legacy").cutout(Place(-0.5, 2.2, 0.4))
        assert web.requests[0][2]["ra"] == "359.5000000"


class TestFaults:
    def test_those_that_pass_leave_no_trace(self, web):
        wanted = client(web).cutouts(PLACES)
        assert all(isinstance(came, bytes) for came in wanted)
        web.counts.clear()
        web.requests.clear()
        web.faults = schedule(5, 3)
        assert client(web).cutouts(PLACES) == wanted
        assert len(web.requests) > 1.5 * len(PLACES)

    @pytest.mark.parametrize("fault", ["status:503", "status:504", "reset", "cut"])
    def test_down_for_good_ends_the_run_and_every_thread(self, web, fault):
        web.faults = always(fault)
        begun = time.monotonic()
        with pytest.raises(InputError, match=r"is down: .*repeat the same command"):
            client(web, patience=0.3).cutouts(PLACES)
        assert time.monotonic() - begun < 5
        assert len(web.counts) < len(PLACES)

    def test_nobody_there(self, web):
        web.stop()
        with pytest.raises(InputError, match=r"is down: .*ConnectionError"):
            client(web, patience=0.1).cutout(HERE)

    def test_longer_rest_than_patience_is_not_waited_for(self, web):
        web.faults = always("status:503+3600")
        with pytest.raises(InputError, match="503 Service Unavailable, asking for 3600 s of rest"):
            client(web).cutout(HERE)
        assert len(web.requests) == 1

    def test_slow_trickle_is_a_failure(self, web, monkeypatch):
        monkeypatch.setattr(module, "WHOLE_SECONDS", 0.1)
        web.faults = lambda place, number: "slow:0.3" if number == 0 else ""
        assert isinstance(client(web).cutout(HERE), bytes)
        assert web.counts["150.1000000,2.2000000"] == 2

    def test_endless_answer_is_not_read_to_its_end(self, web):
        web.faults = lambda place, number: "endless" if place.startswith("150.1") else ""
        bad, good = client(web, witness=PLACES[0]).cutouts([HERE, PLACES[1]])
        assert bad.reason is Reason.NOT_AN_IMAGE
        assert isinstance(good, bytes)

    def test_passwords_of_a_mirror_are_not_told(self, web):
        web.stop()
        home = web.url.replace("//", "//user:secret@")
        with pytest.raises(InputError) as caught:
            client(web, patience=0.1, home=home).cutout(HERE)
        assert web.url in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_barred(self, web):
        web.faults = always("status:403")
        with pytest.raises(InputError, match="403 Forbidden, and may have barred"):
            client(web).cutout(HERE)

    def test_silence_is_a_failure(self, web, monkeypatch):
        monkeypatch.setattr(module, "SILENT_SECONDS", 0.2)
        web.faults = lambda place, number: "slow:1" if number == 0 else ""
        assert isinstance(client(web).cutout(HERE), bytes)
        assert web.counts["150.1000000,2.2000000"] == 2

    def test_rest_is_given_to_all(self, web):
        once = iter(["status:429+0.5"])
        web.faults = lambda place, number: next(once, "")
        pace = Pace(500)
        first, second = (Client(service(web), pace, rate=500, patience=9) for _ in range(2))
        with ThreadPoolExecutor() as pool:
            came = pool.submit(first.cutout, PLACES[0])
            wait_for(lambda: pace.next > time.monotonic() + 0.1)
            second.cutout(PLACES[1])
            assert isinstance(came.result(), bytes)
        (limited, *_), *later = web.requests
        assert len(later) == 2
        assert min(when for when, *_ in later) - limited >= 0.5


class TestRefusals:
    """What becomes a reject, with its reason."""

    @pytest.mark.parametrize(
        ("fault", "reason", "detail", "tries"),
        [
            ("status:404", Reason.SERVICE_REFUSED, "the service answered 404 Not Found", 1),
            ("status:400", Reason.SERVICE_REFUSED, "the service answered 400 Bad Request", 1),
            ("status:500", Reason.SERVICE_REFUSED, "answered 500 Internal Server Error", 4),
            ("html", Reason.TEXT, "perhaps an error message", 4),
            ("size", Reason.WRONG_SIZE, "asked for 64 x 64 px, came 56 x 56 px", 4),
            ("cut-unseen", Reason.TRUNCATED, "", 4),
        ],
    )
    def test_of_one_object(self, web, fault, reason, detail, tries):
        web.faults = lambda place, number: fault if place.startswith("150.1") else ""
        bad, good = client(web, witness=PLACES[0]).cutouts([HERE, PLACES[1]])
        assert isinstance(good, bytes)
        assert bad.reason is reason
        assert detail in bad.detail
        assert web.counts["150.1000000,2.2000000"] == tries

    @pytest.mark.parametrize("fault", ["status:404", "html", "status:500"])
    def test_none_is_believed_once_the_witness_is_refused(self, web, fault):
        web.faults = always(fault)
        with pytest.raises(InputError, match="refuses what it gave before"):
            client(web, witness=PLACES[0]).cutouts([HERE])

    @pytest.mark.parametrize("name", ["sdss", "legacy"])
    def test_outside_the_footprint(self, web, name):
        came = client(web, name, size=128).cutout(SOUTH)
        assert came.reason is Reason.OUTSIDE_FOOTPRINT
        assert len(web.requests) == 1

    def test_outside_the_footprint_in_words(self, web):
        web.faults = always("outside")
        came = client(web, witness=PLACES[0]).cutouts([HERE])
        assert [answer.reason for answer in came] == [Reason.OUTSIDE_FOOTPRINT]
        assert len(web.requests) == 1

    def test_outside_the_footprint_in_fits_names_the_band(self, web):
        came = client(web, "legacy", format="fits").cutout(SOUTH)
        assert (
            came.detail == "100% of the pixels are blank in band g: the survey has no image there"
        )

    def test_one_blank_band_is_outside(self, web):
        light = server.sky(1, 2, 0.4, 64)
        cube = np.frombuffer(server.fits_cube(light, "grz"), np.uint8).copy()
        cube[2880 + 2 * 64 * 64 * 4 :] = 0
        with pytest.raises(CutoutError, match="blank in band z"):
            service(web, "legacy", format="fits").check(cube.tobytes())

    def test_edge_of_the_survey(self, web):
        """Less than half of an image may lie beyond it."""
        light = server.sky(1, 2, 0.4, 64) + 20
        light[:30] = 0
        service(web).check(server.jpeg(light))
        light[:34] = 0
        with pytest.raises(CutoutError) as caught:
            service(web).check(server.jpeg(light))
        assert caught.value.reason is Reason.OUTSIDE_FOOTPRINT

    def test_other_format_and_other_bands(self, web):
        light = server.sky(1, 2, 0.4, 64)
        with pytest.raises(CutoutError, match="wanted fits"):
            service(web, "legacy", format="fits").check(server.jpeg(light))
        with pytest.raises(CutoutError, match="asked for 3 bands, came 2"):
            service(web, "legacy", format="fits").check(server.fits_cube(light, "gr"))


class TestWitness:
    def test_the_first_that_is_answered_to(self, web):
        web.faults = lambda place, number: "status:404" if place.startswith("10.0") else ""
        assert client(web).find_witness([PLACES[0], SOUTH, PLACES[1]]) == SOUTH

    def test_wrong_layer_is_told(self, web):
        with pytest.raises(InputError, match=r"none for 2 objects.*404 Not Found.*--service"):
            client(web, layer="dr99").find_witness(PLACES[:2])


class TestPace:
    def test_turns_are_even_and_pauses_hold_all(self):
        now = [100.0]
        pace = Pace(4, clock=lambda: now[0])
        assert [pace.turn() for _ in range(3)] == [0, 0.25, 0.5]
        now[0] += 10
        assert pace.turn() == 0
        pace.pause(3)
        assert [pace.turn(), pace.turn()] == [3, 3.25]

    def test_the_server_sees_the_rate(self, web):
        client(web, rate=40).cutouts(PLACES[:20])
        times = sorted(when for when, *_ in web.requests)
        assert times[-1] - times[0] > 0.75 * 19 / 40


class TestScale:
    def of_column(self, web, **changes) -> Service:
        return service(web, scale=0.02, scale_column="petroR90_r", **changes)

    def test_in_units_of_a_column(self, web):
        assert self.of_column(web).scale_at(20.0) == 0.4
        assert service(web).scale_at(None) == 0.4

    @pytest.mark.parametrize("value", [None, np.nan, -9999.0, 0.0, np.inf, 0.1, 1e5])
    def test_that_cannot_be_drawn(self, web, value):
        with pytest.raises(CutoutError) as caught:
            self.of_column(web).scale_at(value)
        assert caught.value.reason is Reason.BAD_SCALE


def test_retry_after_in_seconds_or_as_a_date():
    then = email.utils.format_datetime(email.utils.localtime().astimezone())
    assert module._retry_after("7") == 7
    assert module._retry_after(None) == module._retry_after("soon") == 0
    assert module._retry_after(then) == 0
    assert 3500 < module._retry_after(email.utils.formatdate(time.time() + 3600)) < 3601


def test_real_cutouts_are_not_blank(real_data, web):
    """None of SDSS's own images counts as outside, though some have dark edges."""
    import pyarrow.parquet as pq

    images = pq.read_table(real_data / "sdss_cutouts_200.parquet", columns=["image"])["image"]
    asked = service(web, size=200)
    for image in images.to_pylist()[::20]:
        asked.check(image)
