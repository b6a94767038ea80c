"""avader in Python: a trained model on numpy arrays, catalogues as tables, images and batches."""

from avader.api.catalogue import Catalogue, open_catalogue, regenerate
from avader.api.model import Model, load_model
from avader.api.stream import torch_dataset

__all__ = [
    "Catalogue",
    "Model",
    "load_model",
    "open_catalogue",
    "regenerate",
    "torch_dataset",
]
