"""PSF and noise of a synthetic sky: stated in its manifest, and made again with its objects."""

import numpy as np
import pytest
from scipy.signal import convolve2d

import avader
from avader.config import GenerateSettings, VerifySettings
from avader.errors import InputError
from avader.images.encode import encode_fits
from avader.io.models import write_noise
from avader.pipelines import generate, verify
from avader.synthetic.noise import Noise
from avader.synthetic.psf import gaussian_psf
from tests.tiny import write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")
COUNT = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    uri = write_tiny_model(tmp_path_factory.mktemp("model"))
    write_noise(uri, spectrum=np.full((1, 16, 9), 0.02**2, np.float32), about={})
    return uri


def drawn(model, out, **settings):
    settings = {"count": COUNT, "seed": 2, "rows_per_shard": 12, "workers": 1, **settings}
    generate.run(GenerateSettings(model=model, out=str(out), **settings))
    verify.run(VerifySettings(catalogue=str(out)))
    return avader.open_catalogue(str(out))


def decoded(model) -> np.ndarray:
    loaded = avader.load_model(model)
    return loaded.decode(loaded.sample(COUNT, 2)[0])


def rounded(images) -> np.ndarray:
    return np.rint(255 * images.clip(0, 1))


def test_noise_is_added_and_made_again(model, tmp_path):
    noisy = drawn(model, tmp_path / "noisy", noise=True)
    fields = Noise(np.full((1, 16, 9), 0.02**2), (1, 16, 16)).fields(2, np.arange(COUNT))
    assert fields.std() == pytest.approx(0.02, rel=0.05)
    images = noisy.images(range(COUNT))
    assert abs(images - rounded(decoded(model) + fields)).max() <= 1  # the float32 spectrum
    assert "with the survey's noise added" in noisy.manifest.facts["pixels"]
    again = avader.regenerate(noisy, [29, 3, 17])["image"]
    np.testing.assert_array_equal(again, images[[29, 3, 17]])
    plain = drawn(model, tmp_path / "plain")
    shared = [name for name in plain.dataset.schema.names if name != "image"]
    assert noisy.to_arrow(shared).equals(plain.to_arrow(shared)), "truth is without noise"


def test_psf_blurs_what_is_on_the_sky(model, tmp_path):
    blurred = drawn(model, tmp_path / "blurred", psf_fwhm=2.5)
    kernel = gaussian_psf(2.5)
    for image, sharp in zip(blurred.images(range(COUNT)), decoded(model), strict=True):
        wanted = convolve2d(sharp[0].astype(np.float64), kernel, mode="same", boundary="symm")
        assert abs(image[0] - rounded(wanted)).max() <= 1
    assert blurred.manifest.settings["psf"] == {"fwhm": 2.5}
    again = avader.regenerate(blurred, [5])["image"][0]
    np.testing.assert_array_equal(again, blurred.images([5])[0])


def test_a_psf_of_the_user_is_kept(model, tmp_path):
    psf = tmp_path / "mine.fits"
    psf.write_bytes(encode_fits(3 * gaussian_psf(2.0)))
    settings = {"psf": str(psf), "noise": True, "orientation": "random", "store": "recipe"}
    recipe = drawn(model, tmp_path / "c", **settings)
    psf.unlink()
    stored = {**settings, "psf_fwhm": 2.0, "store": "images"}
    del stored["psf"]
    images = drawn(model, tmp_path / "d", **stored).images(range(COUNT))
    # FITS holds float64, decoding gives float32.
    assert abs(recipe.images(range(COUNT)).astype(int) - images).max() <= 1
    assert (tmp_path / "c" / "psf.fits").exists()
    steps = recipe.manifest.facts["pixels"]
    assert "convolved with the PSF, with the survey's noise added" in steps
    (tmp_path / "c" / "psf.fits").write_bytes(encode_fits(gaussian_psf(1.0)))
    with pytest.raises(InputError, match=r"wanted psf.fits of .* as it was drawn with"):
        avader.open_catalogue(recipe.manifest.uri).images([0])


def test_other_noise_is_refused(model, tmp_path):
    own = write_tiny_model(tmp_path / "model")
    write_noise(own, spectrum=np.full((1, 16, 9), 1e-4, np.float32), about={})
    noisy = drawn(own, tmp_path / "noisy", noise=True)
    with pytest.raises(InputError, match=r"wanted the noise that .* give model="):
        avader.regenerate(noisy, [0], model=model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"noise": True}, "this model holds no noise"),
        ({"psf_fwhm": 9.0}, "wanted a PSF of at most 16 x 16 pixels"),
        ({"psf": "absent.fits"}, "absent.fits"),
    ],
)
def test_refused_before_any_work(tmp_path, settings, said):
    model = write_tiny_model(tmp_path / "model")
    with pytest.raises(InputError, match=said):
        drawn(model, tmp_path / "c", **settings)
    assert not (tmp_path / "c").exists()
