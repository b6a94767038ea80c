"""A mock survey with known truth, drawn by GalSim: galaxy i depends on (seed, i) alone.

Each galaxy takes 24 uniform numbers, whatever its kind, from the first block of counters of
numpy.random.Philox(key=[seed, i]); knots, background and noise come from the second. Lengths are
in units of 1/64 of the stamp's side (a pixel of the default size), so that a larger size samples
the same galaxy more finely. Fluxes and surface brightness are in counts of the detector.

Angles run from the first axis (columns) towards the second (rows), as in photutils. What a real
image has and a Sersic profile lacks is here too: arms (logarithmic spirals, as in Kennicutt
1981), bars, knots of star formation, companions, faint background galaxies, photon noise.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from avader.errors import InputError

KINDS = ("elliptical", "lenticular", "spiral", "edge_on")
FREQUENCIES = (0.34, 0.14, 0.36, 0.16)
STAMP = 64.0  # side of a cutout, in units of length
SKY_NOISE = 32.0  # counts in a square of unit side
GAIN = 4.0  # photo-electrons per count
RA_RANGE = (140.0, 160.0)  # degrees
DEC_RANGE = (0.0, 20.0)  # degrees
_OVERSAMPLING = 2
_NUMBERS = 24  # uniforms that a galaxy takes


@dataclass(frozen=True)
class Galaxy:
    """What is true of one galaxy. Lengths in units of 1/64 of the stamp's side.

    position_angle: degrees in [0, 180) from columns towards rows. winding: +1 or -1, the sense
    in which the arms open. arms, arm_strength, pitch (degrees) and bar are 0 without arms.
    """

    ra: float
    dec: float
    kind: str
    flux: float
    half_light_radius: float
    axis_ratio: float
    position_angle: float
    bulge_fraction: float
    sersic_index: float
    arms: int
    arm_strength: float
    pitch: float
    winding: int
    arm_phase: float
    bar: float
    companion: bool
    companion_offset: tuple[float, float]
    companion_flux: float
    companion_radius: float
    shift: tuple[float, float]
    psf_fwhm: float


def draw_galaxy(seed: int, index: int) -> Galaxy:
    """The truth of galaxy `index`: a pure function of (seed, index)."""
    u = _generator(seed, index, block=0).random(_NUMBERS)
    kind = KINDS[int(np.searchsorted(np.cumsum(FREQUENCIES)[:-1], u[0], side="right"))]
    sines = np.sin(np.radians(DEC_RANGE))
    # Counts of galaxies rise towards faint fluxes; the brightest are 20 times the faintest.
    flux = 1.5e5 * float(min((1 - u[1]) ** -0.9, 20.0))
    companion = bool(u[16] < 0.18)
    return Galaxy(
        ra=_between(u[22], *RA_RANGE),
        dec=math.degrees(math.asin(_between(u[23], *sines))),
        kind=kind,
        flux=flux,
        position_angle=180 * float(u[4]),
        companion=companion,
        companion_offset=_polar(_between(u[17], 9, 24), 360 * u[18]),
        companion_flux=companion * flux * _between(u[19], 0.05, 0.4),
        companion_radius=_between(u[20], 1.2, 4.0),
        shift=_polar(0.6 * math.sqrt(u[14]), 360 * u[15]),
        psf_fwhm=_between(u[13], 2.0, 3.0),
        **_shape(kind, u),
    )


def _shape(kind: str, u: np.ndarray) -> dict[str, Any]:
    """Size, flattening, bulge and arms of a kind, from the uniforms 2, 3 and 5 to 12."""
    smooth = {"arms": 0, "arm_strength": 0.0, "pitch": 0.0, "winding": 0, "bar": 0.0}
    smooth |= {"arm_phase": 2 * math.pi * float(u[11])}
    if kind == "elliptical":
        return smooth | {
            "half_light_radius": _between(u[2], 4.5, 11.0),
            "axis_ratio": _between(u[3], 0.5, 1.0),
            "bulge_fraction": 1.0,
            "sersic_index": float((1.5, 2.0, 2.5, 3.0)[int(4 * u[5])]),
        }
    disk = smooth | {"half_light_radius": _between(u[2], 6.0, 10.5), "sersic_index": 2.0}
    if kind == "lenticular":
        ratio, bulge = _between(u[3], 0.35, 0.95), _between(u[5], 0.3, 0.65)
        return disk | {"axis_ratio": ratio, "bulge_fraction": bulge}
    if kind == "edge_on":
        ratio, bulge = _between(u[3], 0.09, 0.2), _between(u[5], 0.02, 0.25)
        return disk | {"axis_ratio": ratio, "bulge_fraction": bulge}
    return disk | {
        "half_light_radius": _between(u[2], 8.0, 12.0),
        "axis_ratio": _between(u[3], 0.4, 1.0),
        "bulge_fraction": _between(u[5], 0.04, 0.3),
        "arms": int((2, 2, 2, 3, 4)[int(5 * u[6])]),
        "arm_strength": _between(u[7], 0.45, 1.0),
        "pitch": _between(u[8], 12.0, 30.0),
        "winding": 1 if u[9] < 0.5 else -1,
        "bar": _between(u[12], 0.5, 1.0) if u[10] < 0.3 else 0.0,
    }


def draw_image(galaxy: Galaxy, *, seed: int, index: int, size: int) -> np.ndarray:
    """The galaxy as the telescope sees it: float32 (size, size), counts above the sky.

    Raises InputError where GalSim is not installed.
    """
    galsim = load_galsim()
    random = _generator(seed, index, block=1)
    scale = STAMP / size
    psf = galsim.Moffat(beta=3.0, fwhm=galaxy.psf_fwhm)
    scene = galsim.Sum([_profile(galsim, galaxy, random=random), *_others(galsim, galaxy, random)])
    stamp = galsim.Convolve(scene.shift(*galaxy.shift), psf).drawImage(
        nx=size, ny=size, scale=scale, dtype=np.float64
    )
    clean = np.asarray(stamp.array, np.float64)
    variance = (SKY_NOISE * scale) ** 2 + np.maximum(clean, 0) / GAIN
    noisy: np.ndarray = clean + np.sqrt(variance) * random.standard_normal(clean.shape)
    return noisy.astype(np.float32)


def load_galsim() -> ModuleType:
    """The galsim module. Raises InputError where it is not installed."""
    try:
        import galsim
    except ImportError as error:
        raise InputError(
            "wanted GalSim to draw the mock survey, got none installed; "
            'install it with: pip install "avader[mock]"'
        ) from error
    return galsim


def _profile(galsim: ModuleType, galaxy: Galaxy, *, random: np.random.Generator) -> Any:
    """The galaxy itself, before the PSF."""
    angle = galaxy.position_angle * galsim.degrees
    bulge_flux = galaxy.flux * galaxy.bulge_fraction
    bulge_only = galaxy.kind == "elliptical"
    bulge = galsim.Sersic(
        n=galaxy.sersic_index,
        half_light_radius=galaxy.half_light_radius * (1 if bulge_only else 0.3),
        flux=bulge_flux,
    )
    ratio = galaxy.axis_ratio if bulge_only else math.sqrt(max(galaxy.axis_ratio, 0.4))
    bulge = bulge.shear(q=ratio, beta=angle)
    if bulge_only:
        return bulge
    disk_flux = galaxy.flux - bulge_flux
    if galaxy.kind == "spiral":
        return bulge + _spiral_disk(galsim, galaxy, random=random).withFlux(disk_flux)
    if galaxy.kind == "edge_on":
        return bulge + _edge_on_disk(galsim, galaxy).withFlux(disk_flux).rotate(angle)
    disk = galsim.Exponential(half_light_radius=galaxy.half_light_radius, flux=disk_flux)
    return bulge + disk.shear(q=galaxy.axis_ratio, beta=angle)


def _edge_on_disk(galsim: ModuleType, galaxy: Galaxy) -> Any:
    """A disk seen from its side: axis_ratio is the ratio of scale height to scale length."""
    length = galaxy.half_light_radius / 1.678
    return galsim.InclinedExponential(
        inclination=88 * galsim.degrees,
        scale_radius=length,
        scale_height=length * galaxy.axis_ratio,
    )


def _spiral_disk(galsim: ModuleType, galaxy: Galaxy, *, random: np.random.Generator) -> Any:
    """An exponential disk with arms, bar and knots, as an image that GalSim interpolates."""
    side = int(1.25 * STAMP) * _OVERSAMPLING
    axis = (np.arange(side) - (side - 1) / 2) / _OVERSAMPLING
    x, y = _face_on(axis[None, :], axis[:, None], galaxy=galaxy)
    brightness = spiral_brightness(x, y, galaxy=galaxy)
    brightness += _knots(axis, galaxy=galaxy, random=random) * brightness.sum()
    brightness *= np.clip(
        (side / 2 / _OVERSAMPLING - np.hypot(axis[None], axis[:, None])) / 4, 0, 1
    )
    image = galsim.Image(brightness, scale=1 / _OVERSAMPLING)
    return galsim.InterpolatedImage(
        image, x_interpolant="linear", normalization="sb", calculate_stepk=False
    )


def spiral_brightness(x: np.ndarray, y: np.ndarray, *, galaxy: Galaxy) -> np.ndarray:
    """Surface brightness of a disk at face-on positions x, y, relative to its centre.

    An exponential disk times 1 + strength * arms, where arms is a sharpened cosine of the phase
    m (theta -+ ln(r / r0) / tan(pitch)), faded out within the bulge; plus a bar.
    """
    length = galaxy.half_light_radius / 1.678
    radius = np.hypot(x, y) + 1e-3
    phase = galaxy.arms * (np.arctan2(y, x) - _wound(radius, galaxy=galaxy)) - galaxy.arm_phase
    ridge = np.exp(2.2 * (np.cos(phase) - 1))  # 1 on the arm, 0.012 between arms
    fade = radius**2 / (radius**2 + (0.7 * length) ** 2)
    contrast = 1 + galaxy.arm_strength * fade * (4.0 * ridge - 1.0)
    disk = np.exp(-radius / length) * np.maximum(contrast, 0.02)
    along, across = _rotated(x, y, galaxy.arm_phase / max(galaxy.arms, 1))
    bar = np.exp(-((along / (0.9 * length)) ** 4) - (across / (0.3 * length)) ** 2)
    brightness: np.ndarray = disk + 0.9 * galaxy.bar * bar
    return brightness


def _knots(axis: np.ndarray, *, galaxy: Galaxy, random: np.random.Generator) -> np.ndarray:
    """Knots of star formation along the arms, as an image; its sum is 4 to 10 % of the disk."""
    count, length = 40, galaxy.half_light_radius / 1.678
    radius = length * (0.7 + 2.2 * random.random(count))
    arm = random.integers(0, max(galaxy.arms, 1), count)
    angle = _wound(radius, galaxy=galaxy) + random.normal(0, 0.18, count)
    angle += (galaxy.arm_phase + 2 * math.pi * arm) / max(galaxy.arms, 1)
    x = radius * np.cos(angle)
    y = radius * np.sin(angle) * galaxy.axis_ratio
    x, y = _rotated(x, y, -math.radians(galaxy.position_angle))
    weight = random.exponential(1.0, count) * np.exp(-radius / (2 * length))
    weight *= (0.04 + 0.06 * random.random()) / weight.sum()
    columns = np.exp(-0.5 * ((axis[None, :] - x[:, None]) / 0.6) ** 2)
    rows = np.exp(-0.5 * ((axis[None, :] - y[:, None]) / 0.6) ** 2)
    peak = weight / (2 * math.pi * (0.6 * _OVERSAMPLING) ** 2)
    knots: np.ndarray = np.einsum("n,ny,nx->yx", peak, rows, columns)
    return knots


def _others(galsim: ModuleType, galaxy: Galaxy, random: np.random.Generator) -> list[Any]:
    """The companion, if there is one, and faint galaxies of the background."""
    found = []
    if galaxy.companion:
        companion = galsim.Sersic(
            n=2.0, half_light_radius=galaxy.companion_radius, flux=galaxy.companion_flux
        )
        found.append(companion.shear(q=0.7, beta=2 * galaxy.arm_phase * galsim.radians))
        found[-1] = found[-1].shift(*galaxy.companion_offset)
    for _ in range(random.poisson(1.2)):
        x, y = STAMP * (random.random(2) - 0.5)
        flux = 2e3 * min((1 - random.random()) ** -0.8, 8.0)
        source = galsim.Exponential(half_light_radius=0.6 + random.random(), flux=flux)
        found.append(source.shift(x, y))
    return found


def _face_on(x: np.ndarray, y: np.ndarray, *, galaxy: Galaxy) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the sky, put back into the plane of the disk."""
    x, y = _rotated(x, y, math.radians(galaxy.position_angle))
    return x, y / galaxy.axis_ratio


def _wound(radius: np.ndarray, *, galaxy: Galaxy) -> np.ndarray:
    """Angle of an arm at a radius, radians: a logarithmic spiral."""
    if not galaxy.arms:
        return np.zeros_like(radius)
    angle: np.ndarray = galaxy.winding * np.log(radius / 3.0)
    return angle / math.tan(math.radians(galaxy.pitch))


def _rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along axes that are turned by an angle, radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _polar(radius: float, degrees: float) -> tuple[float, float]:
    return (
        float(radius) * math.cos(math.radians(degrees)),
        float(radius) * math.sin(math.radians(degrees)),
    )


def _between(u: float, low: float, high: float) -> float:
    return float(low + u * (high - low))


def _generator(seed: int, index: int, *, block: int) -> np.random.Generator:
    """Numbers of galaxy `index`; the blocks of counters are 2^64 numbers apart."""
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, block, 0, 0])
    )
