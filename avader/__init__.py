"""A morphological catalogue of the sky, and a synthetic sky, at 10^8 galaxies.

    model = avader.load_model("models/published")
    catalogue = avader.open_catalogue("catalogues/galaxies")
    objects = avader.regenerate("catalogues/synthetic", [7, 10**8 - 1])
    batches = avader.torch_dataset("catalogues/synthetic", batch=128)

Each name is loaded on first use: importing avader itself loads neither torch, ray nor pyarrow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avader.api import load_model, open_catalogue, regenerate, torch_dataset

    __version__: str

__all__ = ["__version__", "load_model", "open_catalogue", "regenerate", "torch_dataset"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("avader")
    if name in __all__:
        from avader import api

        return getattr(api, name)
    raise AttributeError(f"module 'avader' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, and what is loaded already."""
    return sorted({*globals(), *__all__})
