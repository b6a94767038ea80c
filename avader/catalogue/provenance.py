"""Where a result comes from: versions and the citation block. No time, host or duration."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Packages whose version can change a number or a byte.
PACKAGES = ("avader", "astropy", "cdshealpix", "numpy", "pillow", "pyarrow", "scipy", "torch")

BIBCODE = "2021MNRAS.502..985S"
DOI_URL = "https://doi.org/10.1093/mnras/staa3670"
CITATION = (
    "Spindler A., Geach J. E., Smith M. J., 2021, MNRAS, 502, 985 (AstroVaDEr), "
    "doi:10.1093/mnras/staa3670; and the avader software, see CITATION.cff"
)


def package_versions(*more: str) -> dict[str, str]:
    """Versions of the packages on which numbers and bytes depend; more: others that they do."""
    return {name: _version(name) for name in (*PACKAGES, *more)}


def provenance(**facts: Any) -> dict[str, Any]:
    """The provenance block of a manifest: the facts given, versions and the citation."""
    return {**facts, "versions": package_versions(), "citation": CITATION}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
