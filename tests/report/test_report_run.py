"""`report` on a tiny catalogue on disk: what it reads, what it refuses."""

import base64
import io
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from avader.api import load_model, open_catalogue
from avader.catalogue import rows, schema
from avader.catalogue.columns import source_names
from avader.catalogue.provenance import provenance
from avader.config import ReportSettings
from avader.errors import InputError
from avader.images.orientation import Orientation, to_sky
from avader.io import manifest, shards
from avader.pipelines import frames, report
from avader.plan import Plan, Unit, unit_name
from avader.recipe import Preprocessing
from avader.report.figures import SOFTENING, stretched
from avader.report.history import to_csv
from tests.report.histories import DEMO, history
from tests.report.test_page import SECTIONS, Reader
from tests.tiny import COMPONENTS, NETWORK, galaxy, write_tiny_model

COUNT, STEP = 40, 15
UNITS = tuple(Unit(unit_name(n), {}) for n in range(-(-COUNT // STEP)))


@dataclass
class Folders:
    """A model, cutouts and a catalogue that belong together."""

    root: object
    bands: int = 1
    orientation: str = "sky"

    def __post_init__(self):
        network = NETWORK.model_copy(update={"bands": self.bands})
        self.preprocessing = Preprocessing(size=16, orientation=self.orientation)
        self.model = write_tiny_model(
            self.root / "model", self.preprocessing, network=network, seed=2
        )
        self.optional = source_names(self.preprocessing)
        generator = np.random.default_rng(5)
        self.angles = generator.uniform(0, 180, COUNT).astype(np.float32)
        self.flips = generator.integers(0, 4, COUNT).astype(np.uint8)
        self.images = np.stack([self.image(number) for number in range(COUNT)])
        self.data = self.write_cutouts(self.root / "cutouts")
        self.catalogue = self.write_catalogue(self.root / "catalogue")

    def image(self, number):
        return np.stack([galaxy(number + 1000 * band) for band in range(self.bands)])

    def names(self, at):
        return np.array([f"g{number:04d}" for number in range(COUNT)], object)[at]

    def write(self, out, kind, settings, tables, rejects, facts):
        plan = Plan(kind=kind, settings=settings, units=UNITS)
        manifest.open_plan(str(out), plan)
        receipts = [
            shards.write_unit(
                str(out),
                unit,
                rows_in=table.num_rows + len(refused),
                table=table,
                rejects=rows.reject_table(refused, unit.name),
            )
            for unit, table, refused in zip(UNITS, tables, rejects, strict=True)
        ]
        manifest.write_manifest(str(out), plan, receipts, facts=facts, provenance=provenance())
        return str(out)

    def write_cutouts(self, out):
        wanted = schema.cutout_schema(
            (self.bands, 16, 16), dtype="uint8", positions=False, optional=self.optional
        )
        tables = []
        for number in range(len(UNITS)):
            at = slice(number * STEP, (number + 1) * STEP)
            size = len(self.images[at])
            columns = {
                "object_id": self.names(at),
                "image": self.images[at],
                "limit_low": np.zeros(size),
                "limit_high": np.ones(size),
                "flags": np.zeros(size, np.int32),
                **self.source(at),
            }
            tables.append(rows.table(wanted, columns))
        refused = [[rows.Reject("bad", "constant", "every pixel is 7")], [], []]
        settings = {
            "source": "s3://sky/cutouts",
            "preprocessing": self.preprocessing.model_dump(mode="json"),
        }
        return self.write(out, "cutouts", settings, tables, refused, {})

    def source(self, at):
        """The columns about the source, of which a schema takes those that it has."""
        return {
            "orientation_angle": self.angles[at],
            "orientation_flips": self.flips[at],
            "mask_fraction": np.full(len(self.angles[at]), 0.3, np.float32),
        }

    def write_catalogue(self, out):
        model = load_model(self.model)
        wanted = schema.classified_schema(
            latent=NETWORK.latent,
            components=COMPONENTS,
            positions=False,
            optional=self.optional,
        )
        tables = []
        for number in range(len(UNITS)):
            at = slice(number * STEP, (number + 1) * STEP)
            mean, logvar = model.encode(self.images[at])
            # Random weights send every image to one place: spread the latents out.
            mean = mean + np.random.default_rng(number).normal(size=mean.shape).astype(np.float32)
            g = model.posterior(mean)
            columns = {
                "object_id": self.names(at),
                "component": g.argmax(axis=1).astype(np.int16),
                "probability": g,
                "probability_broad": model.integrated_posterior(mean, logvar),
                "entropy": np.zeros(len(g)),
                "latent_mean": mean,
                "latent_logvar": logvar,
                "log_likelihood": model.log_likelihood(mean),
                "reconstruction_error": np.full(len(g), 0.25),
                "flags": np.ones(len(g), np.int32),
                **self.source(at),
            }
            tables.append(rows.table(wanted, columns))
        settings = {
            "model": model.digest,
            "data": manifest.read_manifest(self.data).digest,
            "data_uri": self.data,
            "precision": "float32",
            "tile": 16,
        }
        facts = {"components": COMPONENTS, "latent": NETWORK.latent}
        return self.write(out, "classified", settings, tables, [[], [], []], facts)

    def run(self, **changed):
        given = {"model": self.model, "catalogue": self.catalogue, "out": str(self.root / "page")}
        report.run(ReportSettings(**given | changed))
        return (self.root / "page" / "index.html").read_text()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(folders):
    return folders.run()


def test_the_page_has_every_section_and_the_provenance(folders, html):
    read = Reader(html)
    assert set(SECTIONS) <= set(read.ids)
    text = "".join(read.text)
    for wanted in (
        load_model(folders.model).digest,
        folders.catalogue,
        folders.data,
        "s3://sky/cutouts",
        "constant",
        "bad: every pixel is 7",
        "MNRAS",
    ):
        assert wanted in text
    assert "0.25000" in text  # the median reconstruction error
    assert "41" in text  # objects in


def test_pictures_are_those_of_the_catalogue(folders, html):
    """The input panel of the first example is the packed image, stretched or as it is."""
    read = Reader(html)
    first = next(i for i in read.images if i["alt"].startswith("Input, reconstruction"))
    number = int(first["alt"].rpartition("g")[2])
    png = base64.b64decode(first["src"].partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(png)).convert("L"))[:, :16]
    assert any(
        np.array_equal(
            shown, np.rint(255 * stretched(folders.images[number, 0] / 255, softening=s))
        )
        for s in (None, SOFTENING)
    )


def test_images_are_read_by_id_from_their_shards(folders):
    summary = report.summarise(manifest.read_manifest(folders.catalogue))
    images = report.read_images(manifest.read_manifest(folders.data), summary.examples, rows.pixels)
    assert len(images) == 24
    for row, image in images.items():
        np.testing.assert_array_equal(image, folders.images[row].astype(np.float32) / 255)


def test_images_of_a_compacted_catalogue_are_found_by_id(folders):
    """Its parts have other names, and other rows, than those of the cutouts."""
    data = manifest.read_manifest(folders.data)
    chosen = report.summarise(manifest.read_manifest(folders.catalogue)).examples
    moved = [replace(one, part="parts/elsewhere.parquet") for one in chosen]
    wanted = report.read_images(data, chosen, rows.pixels)
    found = report.read_images(data, [*moved[:20], *chosen[20:]], rows.pixels)
    assert found.keys() == wanted.keys()
    for row, image in found.items():
        np.testing.assert_array_equal(image, wanted[row])
    lost = replace(chosen[0], object_id="nobody")
    with pytest.raises(InputError, match=r"wanted the image of nobody .* give the --data"):
        report.read_images(data, [lost], rows.pixels)
    with pytest.raises(InputError, match=r"wanted the image of nobody .* give the --data"):
        report.read_images(data, [replace(lost, part="parts/x.parquet")], rows.pixels)


def test_a_compacted_catalogues_parts_may_have_the_names_of_other_cutouts(folders):
    """As they do where there are no positions: both are numbered from 0."""
    data = manifest.read_manifest(folders.data)
    chosen = report.summarise(manifest.read_manifest(folders.catalogue)).examples
    joined = [replace(one, part=data.paths[0]) for one in chosen]
    assert len({one.part for one in chosen}) > 1
    wanted = report.read_images(data, chosen, rows.pixels)
    found = report.read_images(data, joined, rows.pixels)
    assert found.keys() == wanted.keys()
    for row, image in found.items():
        np.testing.assert_array_equal(image, wanted[row])


def test_rejects_of_both_stages_are_counted(folders):
    found = report.count_rejects(manifest.read_manifest(folders.data), stage="packing")
    assert [(one.stage, one.reason, one.count) for one in found] == [("packing", "constant", 1)]
    assert found[0].meaning
    catalogue = manifest.read_manifest(folders.catalogue)
    assert report.count_rejects(catalogue, stage="classification") == []


def test_the_training_is_on_the_page_where_it_is_known(tmp_path):
    made = Folders(tmp_path)
    assert "training" not in Reader(made.run()).ids
    table = tmp_path / "model" / "training" / "metrics.csv"
    table.parent.mkdir()
    table.write_bytes(to_csv(history(DEMO, 3)))
    read = Reader(made.run())
    assert "training" in read.ids
    assert any("3 epochs" in image["alt"] for image in read.images)
    table.write_text("epoch,loss\n1\n")
    with pytest.raises(InputError, match=r"wanted the table of a training in .*metrics\.csv"):
        made.run()


def test_three_bands_make_a_page(tmp_path):
    html = Folders(tmp_path, bands=3).run()
    assert len(Reader(html).images) > 24


def test_another_model_is_refused_with_both_digests(folders, tmp_path):
    other = write_tiny_model(tmp_path / "other", seed=9)
    digests = load_model(folders.model).digest, load_model(other).digest
    with pytest.raises(InputError, match=rf"wanted .*{digests[0]}.*got {digests[1]}.*--model"):
        folders.run(model=other)


def test_other_cutouts_are_refused(folders, tmp_path):
    moved = Folders(tmp_path, bands=3)
    with pytest.raises(InputError, match=r"wanted the cutouts .* got .*--data"):
        folders.run(data=moved.data)


def test_cutouts_that_moved_are_asked_for(folders, tmp_path):
    moved = Folders(tmp_path)
    (tmp_path / "cutouts").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="say with --data where they are now"):
        moved.run()
    assert moved.run(data=str(tmp_path / "elsewhere"))


def test_a_folder_of_cutouts_is_no_catalogue(folders):
    with pytest.raises(InputError, match="wanted a folder of classified"):
        folders.run(catalogue=folders.data)


class TestFrames:
    @pytest.fixture(scope="class")
    @classmethod
    def canonical(cls, tmp_path_factory):
        return Folders(tmp_path_factory.mktemp("canonical"), orientation="canonical")

    def shown(self, folders, **changed):
        """Number, grey input panel and caption of the first example, and the page's words."""
        read = Reader(folders.run(**changed))
        first = next(i for i in read.images if i["alt"].startswith("Input, reconstruction"))
        number = int(first["alt"].rpartition("g")[2])
        png = base64.b64decode(first["src"].partition(",")[2])
        panel = np.asarray(Image.open(io.BytesIO(png)).convert("L"))[:, :16]
        text = " ".join("".join(read.text).split())
        return number, panel, re.search(r"error (\d\.\d{5})", text)[1], text

    def test_as_stored_or_on_the_sky(self, canonical):
        number, panel, error, text = self.shown(canonical)
        assert "canonical frame" in text
        table = open_catalogue(canonical.catalogue).to_arrow(["latent_mean"])
        latent = np.array(table["latent_mean"][number].as_py(), np.float32)
        decoded = load_model(canonical.model).decode(latent[np.newaxis])[0]
        wanted = np.square(canonical.images[number] / 255 - decoded).mean()
        assert float(error) == pytest.approx(wanted, abs=6e-6)
        again, turned, same_error, text = self.shown(canonical, frame="sky")
        assert "lie as on the sky" in text
        assert (again, same_error) == (number, error)
        orientation = Orientation(float(canonical.angles[number]), int(canonical.flips[number]))
        stored = canonical.images[number].astype(np.float32) / 255
        for seen, image in ((panel, stored), (turned, to_sky(stored, orientation))):
            close = [
                np.abs(np.rint(255 * stretched(image[0].clip(0, 1), softening=s)) - seen).max() <= 1
                for s in (None, SOFTENING)
            ]
            assert any(close)
        assert np.abs(panel.astype(int) - turned).max() > 20

    def test_orientations_are_those_of_the_rows(self, canonical):
        catalogue = manifest.read_manifest(canonical.catalogue)
        summary = report.summarise(catalogue)
        chosen = [one for members in summary.members for one in members]
        found = frames.read_orientations(catalogue, chosen)
        assert found == {
            one.row: Orientation(float(canonical.angles[one.row]), int(canonical.flips[one.row]))
            for one in chosen
        }

    def test_cutouts_of_the_sky_are_shown_as_they_are(self, folders):
        assert self.shown(folders)[1].tobytes() == self.shown(folders, frame="sky")[1].tobytes()
        with pytest.raises(InputError, match=r"wanted cutouts packed with .*canonical.*got .*sky"):
            folders.run(frame="canonical")
