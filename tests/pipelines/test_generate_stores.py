"""The ways to store a synthetic sky: each gives the same objects, whatever is asked of it."""

import io
import itertools
import logging
import re
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

import avader
from avader.api import remade, stream
from avader.catalogue.columns import SYNTHETIC_COLUMNS, TRUTH_NAMES
from avader.config import GenerateSettings, VerifySettings
from avader.errors import InputError
from avader.inference.engine import Engine
from avader.io import shards
from avader.pipelines import dry_run, generate, verify
from avader.pipelines.drawing import planning
from avader.pipelines.progress import size
from avader.synthetic.sky import SyntheticSky
from avader.training.precision import has_native_bfloat16
from tests.tiny import NETWORK, write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")
COUNT = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def draw(model, tmp_path_factory):
    """Draws a sky of COUNT objects in shards of 20, each kind once."""
    folder, made = tmp_path_factory.mktemp("skies"), {}

    def drawn(**settings) -> avader.api.Catalogue:
        out = folder / "-".join(f"{name}-{value}" for name, value in settings.items())
        if out not in made:
            settings = {"count": COUNT, "seed": 5, "rows_per_shard": 20, **settings}
            generate.run(GenerateSettings(model=model, out=str(out), workers=1, **settings))
            verify.run(VerifySettings(catalogue=str(out)))
            made[out] = avader.open_catalogue(str(out))
        return made[out]

    return drawn


@pytest.mark.parametrize(
    ("store", "count"),
    [
        ({"store": "images"}, 60),
        ({"store": "encoded"}, 60),
        ({"store": "encoded", "encoding": "jpeg"}, 60),
        ({"store": "recipe"}, 30_000),
    ],
    ids=["images", "png", "jpeg", "recipe"],
)
def test_a_dry_run_tells_bytes_and_time(model, tmp_path, caplog, monkeypatch, store, count):
    """Bytes exactly, of no more objects than those that it draws; time by a clock of ours."""
    caplog.set_level(logging.INFO, "avader")
    given = {"model": model, "out": str(tmp_path / "out"), "count": count, **store}
    clock = SimpleNamespace(perf_counter=itertools.count(0, 30).__next__)
    with monkeypatch.context() as slow:
        slow.setattr(dry_run, "time", clock)
        generate.run(GenerateSettings(**given, workers=2, dry_run=True))
    generate.run(GenerateSettings(**given, workers=1))
    written = sum(path.stat().st_size for path in (tmp_path / "out" / "parts").glob("*"))
    assert f"  writes about {size(written)}\n" in caplog.text + "\n"
    # Drawing, encoding as files, writing.
    steps = 3 if store["store"] == "encoded" else 2
    rate = count / (30 * steps)
    said = rf"about {15 * steps} s .* 2 worker\(s\) of {rate:,.1f} .* as {count} were done here"
    assert re.search(said, caplog.text)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_emulated_bfloat16_is_said(model, tmp_path, caplog, precision):
    caplog.set_level(logging.INFO, "avader")
    given = {"model": model, "out": str(tmp_path / "out"), "count": 5, "precision": precision}
    generate.run(GenerateSettings(**given, dry_run=True))
    emulated = precision == "bfloat16" and not has_native_bfloat16("cpu")
    assert ("this CPU has no bfloat16" in caplog.text) == emulated


class TestStores:
    def test_png_is_lossless(self, draw):
        plain, encoded = draw(store="images"), draw(store="encoded")
        rows = [49, 0, 20, 0]
        np.testing.assert_array_equal(encoded.images(rows), plain.images(rows))
        data = encoded.to_arrow(["image"])["image"][7].as_py()
        picture = np.array(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(picture, plain.images([7])[0, 0])
        others = [name for name in plain.dataset.schema.names if name != "image"]
        assert encoded.to_arrow(others).equals(plain.to_arrow(others))

    @pytest.mark.long
    def test_jpeg_is_near(self, draw):
        plain = draw(store="images").images(range(COUNT)).astype(int)
        files = draw(store="encoded", encoding="jpeg")
        near, poor = (
            files.images(range(COUNT)),
            draw(store="encoded", encoding="jpeg", quality=20).images(range(COUNT)),
        )
        assert abs(near - plain).max() <= 4
        assert abs(near - plain).mean() < abs(poor - plain).mean() / 2
        assert files.to_arrow(["image"])["image"][0].as_py().startswith(b"\xff\xd8")

    def test_recipe_is_decoded_when_read(self, draw):
        plain, recipe = draw(store="images"), draw(store="recipe", keep_latent=True)
        names = ["index", "component", "latent", "log_likelihood"]
        assert recipe.dataset.schema.names == names
        rows = [49, 0, 20, 0]
        np.testing.assert_array_equal(recipe.images(rows), plain.images(rows))
        assert recipe.image_shape == plain.image_shape
        exact, near = (np.array(each.to_arrow()["latent"].to_pylist()) for each in (plain, recipe))
        np.testing.assert_array_equal(near, exact.astype(np.float16))
        shared = ["index", "component", "log_likelihood"]
        assert recipe.to_arrow(shared).equals(plain.to_arrow(shared))

    def test_recipe_is_small(self, draw):
        assert draw(store="recipe").dataset.schema.names == ["index", "component", "log_likelihood"]

    def test_truth_is_the_same_of_every_store(self, draw):
        rows = [49, 0, 20, 0]
        plain = draw(store="images").truth(rows)
        assert plain.keys() > TRUTH_NAMES
        for other in (draw(store="recipe"), draw(truth=False), draw(store="encoded")):
            found = other.truth(rows)
            assert found.keys() == plain.keys()
            for name, values in plain.items():
                np.testing.assert_array_equal(found[name], values, err_msg=name)
                assert found[name].dtype == values.dtype, name

    def test_truth_of_many_is_measured_some_at_a_time(self, draw, monkeypatch):
        """Their images are let go: of a million they would fill the memory."""
        catalogue, measure, sizes = draw(store="recipe"), SyntheticSky.measured_images, []

        def measured(sky, drawn):
            sizes.append(len(drawn["index"]))
            return measure(sky, drawn)

        whole = catalogue.truth(range(COUNT))
        monkeypatch.setattr(remade, "DECODE_ROWS", 20)
        monkeypatch.setattr(SyntheticSky, "measured_images", measured)
        for name, values in catalogue.truth(range(COUNT)).items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)
        assert sizes == [20, 20, 10]
        assert catalogue.truth([]).keys() == whole.keys()

    @pytest.mark.parametrize("truth", [True, False])
    def test_made_again_by_the_computation_that_was_stored(self, draw, truth, monkeypatch):
        """A GPU compiles each by itself, and their pixels may differ by 1."""
        other = "decode_pixels" if truth else "decode_measured"
        monkeypatch.delattr(Engine, other)
        catalogue = draw(store="images", truth=truth)
        again = avader.regenerate(catalogue, range(COUNT))["image"]
        np.testing.assert_array_equal(again, catalogue.images(range(COUNT)))

    def test_without_truth(self, draw):
        names = draw(truth=False).dataset.schema.names
        assert names == ["index", "component", "latent", "image"]

    @pytest.mark.parametrize("orientation", ["canonical", "random"])
    def test_truth_is_in_the_table(self, draw, model, orientation):
        catalogue = draw(orientation=orientation)
        table = catalogue.to_arrow()
        z = np.array(table["latent"].to_pylist(), np.float32)
        likelihood = avader.load_model(model).log_likelihood(z).astype(np.float32)
        np.testing.assert_array_equal(table["log_likelihood"].to_numpy(), likelihood)
        light = catalogue.images(range(COUNT)).sum((1, 2, 3)) / 255
        # Rounded by half a grey level at most, 256 pixels; the random network gives little above 1.
        np.testing.assert_allclose(table["flux"].to_numpy(), light, atol=0.05)

    @pytest.mark.parametrize("store", ["images", "encoded"])
    def test_a_file_tells_unit_definition_and_source_of_each_column(self, draw, store):
        """As any reader of Parquet finds them."""
        units = dict.fromkeys(TRUTH_NAMES, "") | dict.fromkeys(
            ("centroid_x", "centroid_y", "half_light_radius"), "pixel"
        )
        units["position_angle"] = "deg"
        for path in draw(store=store).dataset.files:
            found = pq.read_schema(path)
            declared = {column.name: column for column in SYNTHETIC_COLUMNS}
            for name in found.names:
                told = found.field(name).metadata
                assert told[b"ucd"] == declared[name].ucd.encode()
                assert told[b"description"].startswith(declared[name].meaning.encode())
            for name, unit in units.items():
                told = found.field(name).metadata
                assert told[b"unit"] == unit.encode()
                assert declared[name].source
                assert declared[name].source.encode() in told[b"description"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("truth", [True, False])
def test_a_gpus_sky_is_made_again(draw, truth):
    """On the GPU by itself, since the manifest says so."""
    catalogue = draw(store="images", truth=truth, device="gpu")
    rows = [49, 0, 20, 0]
    again = avader.regenerate(catalogue, rows)
    np.testing.assert_array_equal(again["image"], catalogue.images(rows))
    on_cpu = avader.regenerate(catalogue, rows, device="cpu")["image"]
    assert abs(on_cpu.astype(int) - again["image"]).max() <= 1


class TestTorchDataset:
    @pytest.mark.parametrize("store", ["images", "encoded", "recipe"])
    def test_every_object_once_and_with_its_image(self, draw, store):
        catalogue = draw(store=store)
        batches = list(avader.torch_dataset(catalogue, batch=8, seed=1))
        assert [len(batch["index"]) for batch in batches] == [8] * 6 + [2]
        order = np.concatenate([batch["index"].numpy() for batch in batches])
        assert sorted(order) == list(range(COUNT))
        assert list(order) != list(range(COUNT))
        plain = draw(store="images")
        images = np.concatenate([batch["image"].numpy() for batch in batches])
        np.testing.assert_array_equal(images, plain.images(order))
        component = np.concatenate([batch["component"].numpy() for batch in batches])
        np.testing.assert_array_equal(component, plain.to_arrow()["component"].to_numpy()[order])

    def test_order_is_decided_by_seed_and_epoch(self, draw):
        def order(**settings):
            data = avader.torch_dataset(draw(store="recipe"), batch=8, **settings)
            data.set_epoch(epoch)
            return np.concatenate([batch["index"].numpy() for batch in data]).tolist()

        epoch = 0
        first, other = order(seed=1), order(seed=2)
        assert order(seed=1) == first != other
        assert order(shuffle=False) == list(range(COUNT))
        epoch = 1
        assert order(seed=1) != first

    @pytest.mark.parametrize(("most", "pieces"), [(10**9, 3), (0, 1)])
    def test_fewer_pieces_are_mixed_where_images_are_large(self, draw, monkeypatch, most, pieces):
        """A sky of three shards, each a row group."""
        monkeypatch.setattr(stream, "MIXED_BYTES", most)
        data = avader.torch_dataset(draw(store="images"), batch=8, seed=1)
        windows = [len(window) for window in data._windows()]
        assert len(windows) == 3 // pieces
        assert sum(windows) == COUNT
        assert data._mixed() == (stream.MIXED if most else 1)
        assert avader.torch_dataset(draw(store="recipe"))._mixed() == stream.MIXED

    def test_workers_and_shares_split_the_objects(self, draw):
        """As evenly as can be, also where all objects lie in one row group."""
        for store, of in (("images", 2), ("recipe", 3)):
            shares = []
            for number in range(of):
                data = avader.torch_dataset(draw(store=store), batch=4, share=(number, of))
                loader = DataLoader(data, batch_size=None, num_workers=number)
                shares.append([index for batch in loader for index in batch["index"].tolist()])
            assert sorted(index for share in shares for index in share) == list(range(COUNT))
            assert {len(share) for share in shares} <= {COUNT // of, -(-COUNT // of)}

    def test_workers_that_stay_follow_the_epoch(self, draw):
        data = avader.torch_dataset(draw(store="images"), batch=4)
        orders = []
        for source in (data, DataLoader(data, None, num_workers=1, persistent_workers=True)):
            for epoch in range(2):
                data.set_epoch(epoch)
                orders.append([int(index) for batch in source for index in batch["index"]])
        assert orders[:2] == orders[2:]
        assert orders[0] != orders[1]

    @pytest.mark.parametrize("store", ["images", "recipe"])
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    def test_batches_of_an_opened_catalogue_come_to_the_gpu(self, draw, store):
        for batch in avader.torch_dataset(draw(store=store), device="cuda"):
            assert {column.device.type for column in batch.values()} == {"cuda"}

    def test_batches_of_an_opened_catalogue_come_to_a_device(self, draw):
        """torch's meta device is on every machine, and holds shapes alone."""
        (batch, *_) = avader.torch_dataset(draw(store="images"), device="meta")
        assert {column.device.type for column in batch.values()} == {"meta"}
        (batch, *_) = avader.torch_dataset(draw(store="images"))
        assert {column.device.type for column in batch.values()} == {"cpu"}

    def test_refuses(self, draw, model):
        with pytest.raises(InputError, match="wanted batch from 1"):
            avader.torch_dataset(draw(store="images"), batch=0)
        with pytest.raises(InputError, match="share as"):
            avader.torch_dataset(draw(store="images"), share=(2, 2))


class TestAdding:
    def test_a_sky_grows(self, model, tmp_path, caplog, monkeypatch):
        def run(out, count, **settings):
            settings = {"rows_per_shard": 20, "workers": 1, **settings}
            generate.run(GenerateSettings(model=model, out=str(out), count=count, **settings))
            return avader.open_catalogue(str(out))

        whole = run(tmp_path / "whole", 60)
        plain = {name: value for name, value in shards.WRITER.items() if name != "pixels"}
        with monkeypatch.context() as earlier:  # a version that wrote pixels so
            earlier.setattr(planning, "WRITERS", {"images": plain})
            run(tmp_path / "grown", 30)
        grown = run(tmp_path / "grown", 60, add=True, rows_per_shard=15)
        assert grown.to_arrow().equals(whole.to_arrow())
        assert len(grown.manifest.paths) == 4
        verify.run(VerifySettings(catalogue=str(tmp_path / "grown")))
        found = avader.regenerate(grown, [59, 29])
        np.testing.assert_array_equal(found["image"], whole.images([59, 29]))
        caplog.set_level("INFO", "avader")
        run(tmp_path / "grown", 60, add=True)
        assert "holds 60 objects already: nothing to do" in caplog.text
        with pytest.raises(InputError, match=r"got 40 where .* holds 60 already"):
            run(tmp_path / "grown", 40, add=True)
        with pytest.raises(InputError, match="seed was 0 and is now 1"):
            run(tmp_path / "grown", 90, add=True, seed=1)

    @pytest.mark.long
    def test_counts_grow_by_further_blocks(self, model, tmp_path):
        def run(**settings):
            out = str(tmp_path / "c")
            generate.run(GenerateSettings(model=model, out=out, workers=1, **settings))
            return avader.open_catalogue(out)

        first = run(counts={0: 10, 2: 5})
        more = run(counts={0: 12, 1: 3, 2: 5}, add=True)
        components = [0] * 10 + [2] * 5 + [0] * 2 + [1] * 3
        assert more.to_arrow()["component"].to_pylist() == components
        assert more.to_arrow().slice(0, 15).equals(first.to_arrow())
        assert more.manifest.settings["blocks"] == [[0, 10], [2, 5], [0, 2], [1, 3]]
        np.testing.assert_array_equal(avader.regenerate(more, [19])["image"], more.images([19]))
        with pytest.raises(InputError, match=r"got 1=0 where .* holds 3 of it already"):
            run(counts={0: 20}, add=True)
        with pytest.raises(InputError, match="wanted --counts"):
            run(count=30, add=True)

    def test_nothing_to_add_to(self, model, tmp_path):
        with pytest.raises(InputError, match="wanted a finished folder"):
            generate.run(GenerateSettings(model=model, out=str(tmp_path), count=3, add=True))


class TestRefuses:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"encoding": "png"}, "encoding: only with --store encoded"),
            ({"store": "encoded", "quality": 80}, "quality: only with --encoding jpeg"),
            ({"keep_latent": True}, "keep_latent: only with --store recipe"),
            ({"store": "recipe", "truth": False}, "truth: only with another store"),
            ({"store": "recipe", "device": "gpu"}, "device: only with another store"),
            ({"count": 0}, "count: wanted objects"),
        ],
    )
    def test_options_without_use(self, settings, said):
        with pytest.raises(ValidationError, match=said):
            GenerateSettings(model="m", out="o", **{"count": 1, **settings})

    def test_files_of_two_bands(self, tmp_path):
        model = write_tiny_model(tmp_path / "two", network=NETWORK.model_copy(update={"bands": 2}))
        out = tmp_path / "out"
        with pytest.raises(InputError, match="wanted a model of 1 or 3 bands"):
            generate.run(
                GenerateSettings(
                    model=model, out=str(out), count=3, store="encoded", encoding="jpeg"
                )
            )
        assert not out.exists()


def test_other_readers_see_files(draw):
    catalogue = draw(store="encoded")
    (path, *_) = catalogue.manifest.paths
    table = pq.read_table(f"{catalogue.manifest.uri}/{path}").to_pandas()
    assert Image.open(io.BytesIO(table["image"][0])).size == (16, 16)
