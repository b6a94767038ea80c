"""A model as plain values: the config and the arrays that a model folder holds, and back.

    write_model(uri, config=model_config(model, preprocessing), tensors=model_tensors(model), ...)
    model = build_model(parse_config(files.config), files.tensors)

No disk here: the caller reads and writes. Legend: D latent dimensions, K components.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError
from avader.mixture.sample import low_likelihood_threshold, mixture_arrays
from avader.model.vade import VaDE
from avader.recipe import Network, Positive, Preprocessing, Section


class MixtureSizes(Section):
    """What must be known of the mixture before its arrays."""

    components: Positive
    """K, components."""
    variance_floor: float
    """Least variance of a component along a latent dimension."""


class ModelConfig(Section):
    """The contents of config.json, but for its format and version."""

    network: Network
    """Sizes of the network."""
    mixture: MixtureSizes
    """Sizes of the mixture."""
    preprocessing: Preprocessing
    """How the images were made that the model was trained on."""
    low_likelihood: float
    """The log p(z), nats, below which a catalogue flags an object."""


def model_config(model: VaDE, preprocessing: Preprocessing) -> dict[str, Any]:
    """The contents of config.json for a trained model, as JSON values.

    low_likelihood is drawn from the model's own mixture (low_likelihood_threshold), so call
    this when training is done.
    """
    config = ModelConfig(
        network=model.network,
        mixture=MixtureSizes(components=model.components, variance_floor=model.variance_floor),
        preprocessing=preprocessing,
        low_likelihood=low_likelihood_threshold(mixture_arrays(model.mixture())),
    )
    return config.model_dump(mode="json")


def model_tensors(model: VaDE) -> dict[str, NDArray[Any]]:
    """The model's arrays by name, on the CPU: float32, and float64 for the mixture."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """Check a config.json's values; raises InputError that names what is wrong."""
    fields = {name: value for name, value in config.items() if name not in ("format", "version")}
    try:
        return ModelConfig.model_validate(fields)
    except ValueError as error:
        raise InputError(
            f"wanted a model's config.json, got one with {_wrong(error)}; "
            "write the model folder again"
        ) from error


def build_model(config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> VaDE:
    """The model of a folder's config and arrays, on the CPU, ready to infer.

    Raises InputError where the arrays are not those of the config's network.
    """
    return model_from_arrays(
        tensors,
        network=config.network,
        components=config.mixture.components,
        variance_floor=config.mixture.variance_floor,
    )


def model_from_arrays(
    tensors: Mapping[str, NDArray[Any]],
    *,
    network: Network,
    components: int,
    variance_floor: float,
) -> VaDE:
    """As build_model, from sizes instead of a config."""
    check_tensors(tensors, network=network, components=components)
    model = VaDE(network, components=components, variance_floor=variance_floor)
    # A copy: arrays read from a file may not be writable.
    model.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    return model.eval()


def check_tensors(
    tensors: Mapping[str, NDArray[Any]], *, network: Network, components: int
) -> None:
    """Raise InputError unless the arrays are those of this network: names, shapes, finite."""
    with torch.device("meta"):
        model = VaDE(network, components=components, variance_floor=1.0)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    problems = [f"{name} {wanted[name]} is missing" for name in wanted.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        if tensors[name].shape != wanted[name]:
            problems.append(f"{name} has shape {tensors[name].shape} instead of {wanted[name]}")
        elif not np.isfinite(tensors[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        raise InputError(
            f"wanted the arrays of a network of {network.size} px, {network.latent} latent "
            f"dimensions and {components} components, got others: {'; '.join(sorted(problems))}; "
            "give the model's files whole, as they were written"
        )


def _wrong(error: Any) -> str:
    """Field and trouble, for each that a section's check found."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
    )
