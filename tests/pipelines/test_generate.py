import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import avader
from avader.catalogue.columns import SYNTHETIC_COLUMNS, TRUTH_NAMES
from avader.config import GenerateSettings, VerifySettings
from avader.errors import InputError
from avader.images.orientation import Orientation, to_sky
from avader.mixture.random import orientations
from avader.pipelines import generate, verify
from tests.tiny import COMPONENTS, write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def made(model: str, out, **settings):
    generate.run(GenerateSettings(model=model, out=str(out), **{"workers": 1, **settings}))
    return avader.open_catalogue(str(out))


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    """40 objects of seed 9 in shards of 16, and nothing else that was asked for."""
    out = tmp_path_factory.mktemp("plain") / "c"
    return made(model, out, count=40, seed=9, rows_per_shard=16)


def test_object_is_the_same_whatever_count_shards_and_workers(model, tmp_path):
    one = made(model, tmp_path / "1", count=50, seed=3, rows_per_shard=50, workers=1)
    two = made(model, tmp_path / "2", count=90, seed=3, rows_per_shard=17, workers=2)
    first, second = one.to_arrow(), two.to_arrow().slice(0, 50)
    assert first["index"].to_pylist() == list(range(50))
    assert first.equals(second)


def test_rows_are_what_the_model_draws(model, plain):
    loaded = avader.load_model(model)
    z, component = loaded.sample(40, 9)
    table = plain.to_arrow()
    np.testing.assert_array_equal(np.array(table["latent"].to_pylist(), np.float32), z)
    np.testing.assert_array_equal(table["component"].to_numpy(), component)
    expected = np.rint(np.clip(loaded.decode(z), 0, 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(plain.images(range(40)), expected)
    assert plain.image_shape == (1, 16, 16)
    np.testing.assert_array_equal(plain.images([39, 0, 17]), expected[[39, 0, 17]])


class TestOrientation:
    def test_images_are_put_on_the_sky(self, model, plain, tmp_path):
        turned = made(model, tmp_path / "turned", orientation="random", count=30, seed=9)
        verify.run(VerifySettings(catalogue=str(tmp_path / "turned")))
        table = turned.to_arrow()
        names = ["index", "component", "latent", "log_likelihood"]
        assert table.select(names).equals(plain.to_arrow(names).slice(0, 30))
        angles, flips = orientations(9, np.arange(30))
        assert table["orientation_angle"].to_pylist() == angles.tolist()
        assert table["orientation_flips"].to_pylist() == flips.tolist()
        decoded = avader.load_model(model).decode(np.array(table["latent"].to_pylist(), "f4"))
        for image, each, angle, flip in zip(
            turned.images(range(30)), decoded, angles, flips, strict=True
        ):
            wanted = to_sky(each, Orientation(float(angle), int(flip)))
            np.testing.assert_array_equal(image, np.rint(255 * wanted.clip(0, 1)))

    @pytest.mark.long
    def test_object_is_the_same_whatever_count_shards_and_workers(self, model, tmp_path):
        drawn = {"seed": 3, "orientation": "random"}
        one = made(model, tmp_path / "1", count=30, rows_per_shard=30, workers=1, **drawn)
        two = made(model, tmp_path / "2", count=50, rows_per_shard=17, workers=2, **drawn)
        assert one.to_arrow().equals(two.to_arrow().slice(0, 30))

    def test_as_the_model_draws_by_default(self, plain):
        names = plain.dataset.schema.names
        assert names[:3] == ["index", "component", "latent"]
        assert names[3:-1] == [c.name for c in SYNTHETIC_COLUMNS if c.name in TRUTH_NAMES]
        assert names[-1] == "image"


def test_components_and_variance_scale_are_used(model, tmp_path):
    chosen = made(model, tmp_path / "c", count=60, components=(1, 3), variance_scale=0.5)
    assert set(chosen.to_arrow()["component"].to_pylist()) == {1, 3}
    z, _ = avader.load_model(model).sample(60, 0, components=[1, 3], variance_scale=0.5)
    found = np.array(chosen.to_arrow()["latent"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, z)


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 60, "orientation": "random", "components": (1, 3), "weights": (3.0, 1.0)},
        {"counts": {2: 20, 0: 40}, "truncation": 1.0, "variance_scale": 0.5},
        {"count": 60, "precision": "bfloat16"},
    ],
)
def test_any_object_is_made_again_alone(model, tmp_path, settings):
    uri = str(tmp_path / "c")
    catalogue = made(model, uri, seed=7, rows_per_shard=25, **settings)
    table = catalogue.to_arrow()
    indices = [59, 3, 24, 25, 3, 40]
    found = avader.regenerate(uri, indices)
    assert found["index"].tolist() == indices
    np.testing.assert_array_equal(found.pop("image"), catalogue.images(indices))
    wanted = table.drop_columns("image").take(indices)
    assert [name for name in wanted.column_names if name not in TRUTH_NAMES] == list(found)
    for name, values in found.items():
        np.testing.assert_array_equal(values, wanted[name].to_pylist(), err_msg=name)
    (alone,) = avader.regenerate(catalogue, np.array([40]))["image"]
    np.testing.assert_array_equal(alone, catalogue.images([40])[0])
    assert avader.regenerate(catalogue, [])["image"].shape == (0, 1, 16, 16)


def test_counts_are_exact_and_in_blocks(model, tmp_path):
    catalogue = made(model, tmp_path / "c", counts={2: 20, 0: 40}, rows_per_shard=25)
    assert catalogue.to_arrow()["component"].to_pylist() == [0] * 40 + [2] * 20
    assert catalogue.manifest.settings["blocks"] == [[0, 40], [2, 20]]
    verify.run(VerifySettings(catalogue=str(tmp_path / "c")))


class TestRegenerateRefuses:
    def test_indices_that_are_not_there(self, plain):
        for wrong in ([40], [-1]):
            with pytest.raises(InputError, match=r"wanted rows from 0 to 39, got"):
                avader.regenerate(plain, wrong)
        with pytest.raises(InputError, match="wanted integers, got float64"):
            avader.regenerate(plain, [1.5])

    def test_another_model(self, plain, tmp_path):
        other = write_tiny_model(tmp_path / "other", seed=1)
        with pytest.raises(InputError, match=r"wanted the model of .* give model="):
            avader.regenerate(plain, [0], model=other)

    def test_another_layout(self, plain):
        catalogue = avader.open_catalogue(plain.manifest.uri)
        catalogue.manifest.settings["random_layout"] = 2
        with pytest.raises(InputError, match=r"wanted random numbers of layout 1, got .* 2"):
            avader.regenerate(catalogue, [0])


@pytest.mark.long
def test_a_lost_shard_is_made_again_with_the_same_bytes(model, tmp_path):
    whole = made(model, tmp_path / "whole", count=60, rows_per_shard=20)
    cut = made(model, tmp_path / "cut", count=60, rows_per_shard=20)
    for name in ("manifest.json", "rejects/00000001.parquet", "parts/00000001.parquet"):
        (tmp_path / "cut" / name).unlink()
    cut = made(model, tmp_path / "cut", count=60, rows_per_shard=20)
    assert cut.manifest.digest == whole.manifest.digest
    for path in whole.manifest.paths:
        assert (tmp_path / "cut" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    verify.run(VerifySettings(catalogue=str(tmp_path / "cut")))


def test_manifest_says_how_to_make_it_again(model, plain):
    held = plain.manifest
    assert held.kind == "synthetic"
    assert held.settings["seed"] == 9
    assert held.provenance["random_layout"] == 1
    assert held.provenance["model"] == avader.load_model(model).digest
    assert "torch" in held.provenance["versions"]
    assert "Spindler" in held.provenance["citation"]


@pytest.mark.parametrize("components", [(COMPONENTS,), (-1,), (1, 1)])
def test_a_component_that_is_not_there(model, tmp_path, components):
    with pytest.raises(InputError, match="wanted distinct numbers from 0 to 3"):
        made(model, tmp_path / "c", count=5, components=components)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("component", [COMPONENTS, 9])
def test_counts_of_a_component_that_is_not_there(model, tmp_path, component):
    wanted = f"counts: wanted components from 0 to 3, got {component}"
    with pytest.raises(InputError, match=wanted):
        made(model, tmp_path / "c", counts={0: 5, component: 5})
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("given", [{"count": 0}, {"counts": {0: 0}}, {"counts": {0: 5, 1: 0}}])
def test_a_count_of_nothing(model, tmp_path, given):
    with pytest.raises(ValidationError, match=r"count: wanted objects|greater than 0"):
        made(model, tmp_path / "c", **given)
    assert not (tmp_path / "c").exists()


def test_image_column_is_plain_for_other_readers(plain):
    field = pq.read_schema(plain.dataset.files[0]).field("image")
    assert str(field.type) == "fixed_size_list<element: uint8>[256]"
    assert field.metadata[b"shape"] == b"[1, 16, 16]"
