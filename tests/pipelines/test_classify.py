import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import avader
from avader.catalogue.columns import Flag
from avader.config import ClassifySettings, GenerateSettings, PackSettings, VerifySettings
from avader.errors import HaltError, InputError, UnfinishedError
from avader.io.manifest import read_manifest
from avader.io.models import write_model
from avader.mixture.gaussian import responsibilities
from avader.mixture.sample import Draw
from avader.model.files import model_config, model_tensors
from avader.pipelines import classify, classifying, matching, pack, verify
from avader.pipelines.drawing.worker import DrawUnit
from avader.plan import Unit
from avader.recipe import Network, Preprocessing
from tests.tiny import PREPROCESSING, tiny_vade, write_table, write_tiny_model

COUNT = 45


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory, ray_session) -> str:
    folder = tmp_path_factory.mktemp("survey")
    source = write_table(folder / "table.parquet", COUNT)
    out = str(folder / "packed")
    pack.run(
        PackSettings(
            source=source, out=out, rows_per_shard=20, workers=1, preprocessing=PREPROCESSING
        )
    )
    return out


def classified(model: str, data: str, out, **settings):
    classify.run(
        ClassifySettings(model=model, data=data, out=str(out), **{"workers": 1, **settings})
    )
    return avader.open_catalogue(str(out))


@pytest.fixture(scope="module")
def catalogue(model, data, tmp_path_factory):
    return classified(model, data, tmp_path_factory.mktemp("catalogue"), workers=2)


def vectors(table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), np.float64)


def test_every_cutout_is_classified_once(catalogue, data):
    assert catalogue.manifest.totals == {"rows_in": COUNT, "rows": COUNT, "rejects": 0}
    packed = avader.open_catalogue(data).to_arrow()
    table = catalogue.to_arrow()
    for name in ("object_id", "ra", "dec", "_healpix_29", "votes"):
        assert table[name].equals(packed[name])
    assert catalogue.rejects().num_rows == 0
    verify.run(VerifySettings(catalogue=catalogue.manifest.uri))


def test_numbers_against_scipy(catalogue, model):
    """Posterior, likelihood and entropy of the written latents, by another implementation."""
    table = catalogue.to_arrow()
    z = vectors(table, "latent_mean")
    mixture = avader.load_model(model)._mixture
    joint = np.stack(
        [
            np.log(weight) + stats.multivariate_normal(mean, np.diag(variance)).logpdf(z)
            for weight, mean, variance in zip(*mixture, strict=True)
        ],
        axis=1,
    )
    likelihood = np.logaddexp.reduce(joint, axis=1)
    posterior = np.exp(joint - likelihood[:, None])
    np.testing.assert_allclose(vectors(table, "probability"), posterior, atol=1e-6)
    np.testing.assert_allclose(table["log_likelihood"].to_numpy(), likelihood, rtol=1e-6)
    np.testing.assert_allclose(
        table["entropy"].to_numpy(), stats.entropy(posterior, axis=1), atol=1e-5
    )
    np.testing.assert_array_equal(table["component"].to_numpy(), posterior.argmax(axis=1))


def test_broad_probabilities_against_scipy(catalogue, model):
    """pi_c N(mean; m_c, v_c + exp(logvar)) of the written posteriors, row by row."""
    table = catalogue.to_arrow()
    mixture = avader.load_model(model)._mixture
    expected = np.zeros((COUNT, len(mixture[0])))
    posteriors = zip(vectors(table, "latent_mean"), vectors(table, "latent_logvar"), strict=True)
    for row, (mean, logvar) in enumerate(posteriors):
        for c, (weight, center, variance) in enumerate(zip(*mixture, strict=True)):
            deviation = np.sqrt(variance + np.exp(logvar))
            expected[row, c] = weight * stats.norm(center, deviation).pdf(mean).prod()
    expected /= expected.sum(axis=1, keepdims=True)
    broad = vectors(table, "probability_broad")
    np.testing.assert_allclose(broad, expected, atol=1e-6)
    assert np.abs(broad - vectors(table, "probability")).max() > 0.01


def test_reconstruction_error_and_flags(catalogue, model, data):
    packed = avader.open_catalogue(data)
    images = packed.images(range(COUNT)) / 255
    loaded = avader.load_model(model)
    table = catalogue.to_arrow()
    mean = np.array(table["latent_mean"].to_pylist(), np.float32)
    residual = images - loaded.decode(mean)
    np.testing.assert_allclose(
        table["reconstruction_error"].to_numpy(), (residual**2).mean(axis=(1, 2, 3)), rtol=1e-5
    )
    low = (table["flags"].to_numpy() & Flag.LOW_LIKELIHOOD) > 0
    np.testing.assert_array_equal(
        low, loaded.log_likelihood(mean) < loaded.config["low_likelihood"]
    )
    others = table["flags"].to_numpy() & ~np.int32(Flag.LOW_LIKELIHOOD)
    np.testing.assert_array_equal(others, packed.to_arrow()["flags"].to_numpy())


def test_no_reconstruction_leaves_nulls(model, data, tmp_path):
    table = classified(model, data, tmp_path, reconstruction=False).to_arrow()
    assert table["reconstruction_error"].null_count == COUNT


@pytest.mark.long
def test_stability_of_turns_done_by_hand(ray_session, data, tmp_path):
    """The square's 8 symmetries as transposes and flips, through the network as torch has it."""
    images, plain = avader.open_catalogue(data).images(range(COUNT)), tiny_vade()

    def encode(view):
        with torch.inference_mode():
            return plain.encode(torch.from_numpy(view / np.float32(255)))[0].double()

    # Components so close together that turns lead from one to another.
    z = encode(images).numpy()
    plain.set_mixture(np.full(4, 0.25), z[:4], np.tile(z.var(axis=0), (4, 1)))
    model = str(tmp_path / "model")
    config, tensors = model_config(plain, PREPROCESSING), model_tensors(plain)
    write_model(model, config=config, tensors=tensors, card={"kind": "test"})
    found = classified(model, data, tmp_path / "out", stability=True).to_arrow()
    same = np.zeros(COUNT)
    for transposed, down, along in itertools.product((False, True), (1, -1), (1, -1)):
        view = (images.swapaxes(2, 3) if transposed else images)[:, :, ::down, ::along]
        with torch.inference_mode():
            g = responsibilities(encode(view), plain.mixture())
        same += g.argmax(1).numpy() == found["component"].to_numpy()
    np.testing.assert_array_equal(found["stability"].to_numpy(), same / 8)
    assert len(set(same)) > 2
    verify.run(VerifySettings(catalogue=str(tmp_path / "out")))
    with pytest.raises(InputError, match="stability was True and is now False"):
        classified(model, data, tmp_path / "out")


def test_workers_in_another_folder_find_the_model(model, data, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(classifying, "classify", lambda settings, *_, **__: begun.append(settings))
    (tmp_path / "model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    classify.run(ClassifySettings(model="model", data=data, out="out", dry_run=True))
    monkeypatch.chdir("/")
    worker = classifying.ClassifyUnit(begun[0])
    assert worker.model.digest == avader.load_model(model).digest


def test_another_model_in_its_place_ends_the_run(model):
    """Rows of two models under one digest would be found by nobody."""
    settings = ClassifySettings(model=model, data="data", out="out")
    classifying.ClassifyUnit(settings, avader.load_model(model).digest)
    with pytest.raises(HaltError, match="wanted model 0123, with which this run began, got "):
        classifying.ClassifyUnit(settings, "0123")
    with pytest.raises(HaltError, match="wanted model 0123"):
        DrawUnit(GenerateSettings(model=model, out="out", count=1), Draw(seed=0), digest="0123")


def test_encodings_that_are_not_finite_are_rejects(model, data, tmp_path, monkeypatch):
    settings = ClassifySettings(model=model, data=data, out=str(tmp_path), stability=True)
    worker = classifying.ClassifyUnit(settings)
    encode = worker.model.encode

    def faulty(images):
        mean, logvar = encode(images)
        mean[2:3, 0], logvar[5:6, 1] = np.nan, np.inf
        return mean, logvar

    monkeypatch.setattr(worker.model, "encode", faulty)
    made = worker(Unit("a", {}), (avader.open_catalogue(data).to_arrow()[:20], []))
    assert (made.rows_in, made.table.num_rows) == (20, 18)
    assert made.rejects["object_id"].to_pylist() == ["g0002", "g0005"]
    assert set(made.rejects["reason"].to_pylist()) == {"not_finite"}
    assert np.isfinite(vectors(made.table, "probability_broad")).all()


def test_the_same_bits_for_any_workers_batch_and_shard(catalogue, model, data, tmp_path):
    first = catalogue.to_arrow()
    again = classified(model, data, tmp_path / "a", workers=1, batch=7)
    assert again.manifest.digest == catalogue.manifest.digest
    assert again.to_arrow().equals(first)


def test_the_same_bits_in_any_order_and_shard(model, data, tmp_path):
    """The images in another order, in shards of another size, by the same worker code."""
    settings = ClassifySettings(model=model, data=data, out=str(tmp_path), batch=7, stability=True)
    unit = classifying.ClassifyUnit(settings)
    images = avader.open_catalogue(data).images(range(COUNT))
    whole = unit.numbers(images)
    order = np.random.default_rng(0).permutation(COUNT)
    for start in range(0, COUNT, 13):
        rows = order[start : start + 13]
        for name, values in unit.numbers(images[rows]).items():
            np.testing.assert_array_equal(values, whole[name][rows], err_msg=name)


@pytest.mark.parametrize(
    ("name", "model_changes", "message"),
    [
        ("stretch", {"stretch": "log"}, r"stretch is linear in the data, log in the model.*--like"),
        ("crop", {"crop": 4}, r"crop is 0 in the data, 4 in the model.*--accept-mismatch crop"),
    ],
)
def test_other_preprocessing_is_refused(data, tmp_path, name, model_changes, message):
    wanted = Preprocessing(size=16, **model_changes)
    other = write_tiny_model(tmp_path / "model", preprocessing=wanted)
    with pytest.raises(InputError, match=message):
        classified(other, data, tmp_path / "out")
    differing = matching.check_match(
        read_manifest(data), classify.read_model(other), accepted=(name,)
    )
    assert list(differing) == [name]
    with pytest.raises(InputError, match="wanted names among"):
        classified(other, data, tmp_path / "out", accept_mismatch=("colour",))
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_orientation_and_mask_fraction_are_carried(ray_session, tmp_path):
    preprocessing = PREPROCESSING.model_copy(
        update={"orientation": "canonical", "source_mask": True}
    )
    source = write_table(tmp_path / "table.parquet", 12)
    folder = str(tmp_path / "packed")
    pack.run(PackSettings(source=source, out=folder, workers=1, preprocessing=preprocessing))
    model = write_tiny_model(tmp_path / "model", preprocessing=preprocessing)
    found = classified(model, folder, tmp_path / "out").to_arrow()
    packed = avader.open_catalogue(folder).to_arrow()
    for name in ("orientation_angle", "orientation_flips", "mask_fraction"):
        assert found[name].equals(packed[name])
    assert len(set(found["orientation_angle"].to_pylist())) == 12
    assert "source_mask" not in found.column_names
    verify.run(VerifySettings(catalogue=str(tmp_path / "out")))


@pytest.mark.parametrize("side", ["data", "model"])
def test_folders_from_before_a_setting_have_its_default(data, model, side):
    """Neither frame nor mask was a setting of the first folders: all were in the sky frame."""
    held, files = read_manifest(data), classify.read_model(model)
    old, new = (held.settings, files.config) if side == "data" else (files.config, held.settings)
    for name in ("orientation", "source_mask"):
        del old["preprocessing"][name]
    assert matching.check_match(held, files) == {}
    new["preprocessing"]["orientation"] = "canonical"
    with pytest.raises(InputError, match=r"orientation is (sky|canonical) in the data"):
        matching.check_match(held, files)


def test_masks_beside_the_pixels_are_no_mismatch(data, model):
    held, files = read_manifest(data), classify.read_model(model)
    files.config["preprocessing"]["source_mask"] = True
    assert matching.check_match(held, files) == {}


def test_wrong_image_size_is_refused(data, tmp_path):
    network = Network(size=32, latent=3, filters=(4, 6), kernels=(3, 5), decoder_kernels=(5, 3))
    other = write_tiny_model(tmp_path / "m", network=network, preprocessing=Preprocessing(size=32))
    with pytest.raises(InputError, match=r"wanted cutouts of \[1, 32, 32\].*got \[1, 16, 16\]"):
        classified(other, data, tmp_path / "out", accept_mismatch=("size",))


@pytest.mark.parametrize("part", ["config.json", "model.safetensors", "card.json"])
def test_a_model_folder_with_a_part_missing(model, data, tmp_path, part):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / part).unlink()
    with pytest.raises(InputError, match=f"without {part}"):
        classified(str(tmp_path / "model"), data, tmp_path / "out")


def test_data_that_is_no_packed_folder(model, tmp_path, catalogue):
    with pytest.raises(InputError, match=r"wanted a finished folder with manifest.json"):
        classified(model, str(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match=r"wanted a folder of cutouts, got .* of classified"):
        classified(model, catalogue.manifest.uri, tmp_path / "out")


def test_cutouts_that_changed_after_they_were_packed(model, data, tmp_path):
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    first, second, *_ = read_manifest(data).paths
    shutil.copy(copy / second, copy / first)
    unit = Path(first).stem
    message = rf"1 of \d+ units .*\n  {unit}: wanted {first} of .* got other bytes"
    with pytest.raises(UnfinishedError, match=message):
        classified(model, str(copy), tmp_path / "out")


def test_a_gpu_that_is_not_there(model, data, tmp_path):
    with pytest.raises(InputError, match=r"wanted GPUs \(--device gpu\), got a cluster without"):
        classified(model, data, tmp_path / "out", device="gpu")
    # The folder is free for what the message advises.
    classified(model, data, tmp_path / "out", device="cpu")
    assert read_manifest(str(tmp_path / "out")).settings["device"] == "cpu"


def test_a_gpu_takes_larger_tiles_and_several_at_once():
    folders = {"model": "m", "data": "d", "out": "o"}
    found = []
    for given in ({}, {"device": "gpu"}, {"device": "gpu", "tile": 8, "batch": 100}):
        settings = ClassifySettings(**folders, **given)
        found.append((settings.tile, classifying.images_at_once(settings)))
    assert found == [(16, 64), (256, 1024), (8, 100)]
