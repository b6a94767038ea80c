"""Whether packed cutouts are what a model takes, and how stored files become it."""

from collections.abc import Mapping
from typing import Any

from avader.errors import HaltError, InputError
from avader.io import storage
from avader.io.manifest import Manifest
from avader.io.models import ModelFiles
from avader.recipe import Preprocessing


def preparation(data: Manifest, model: ModelFiles) -> Preprocessing:
    """How a data set's images become what a model sees.

    As they were packed; or, where files are stored, as the model's own were, but for what says
    nothing of pixels: which extensions of these files hold them, and whether masks are kept.
    """
    packed = Preprocessing(**data.settings["preprocessing"])
    if not data.holds_files:
        return packed
    own = packed.model_dump(include={"extensions", "source_mask"})
    return Preprocessing(**{**model.config["preprocessing"], **own})


def check_model(got: str, wanted: str | None) -> None:
    """Raise HaltError where a model's digest is not the one that the run began with.

    wanted: None where any will do.
    """
    if wanted not in (None, got):
        raise HaltError(
            f"wanted model {str(wanted)[:12]}, with which this run began, got {got[:12]}: "
            "put the first one back and repeat the command, or take another --out"
        )


def check_match(
    data: Manifest, model: ModelFiles, *, accepted: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Settings of the preprocessing that differ and were accepted, with both values.

    Raises InputError where data and model differ otherwise, with both shown.
    """
    packed = _pixel_settings(preparation(data, model).model_dump(mode="json"))
    wanted = _pixel_settings(model.config["preprocessing"])
    unknown = sorted(set(accepted) - wanted.keys())
    if unknown:
        raise InputError(
            f"--accept-mismatch: wanted names among {', '.join(wanted)}, got {', '.join(unknown)}"
        )
    differing = {
        name: {"model": wanted[name], "data": packed.get(name)}
        for name in wanted
        if packed.get(name) != wanted[name] and not (name == "extensions" and data.holds_files)
    }
    refused = [name for name in differing if name not in accepted]
    if refused:
        shown = "; ".join(
            f"{name} is {differing[name]['data']} in the data, {differing[name]['model']} in the "
            "model"
            for name in refused
        )
        raise InputError(
            f"the cutouts were not prepared as the model's were: {shown}. Pack them with `--like "
            f"MODEL`, or accept it with `--accept-mismatch {','.join(refused)}`"
        )
    network = model.config["network"]
    shape = [network["bands"], network["size"], network["size"]]
    if not data.holds_files and list(data.settings["shape"]) != shape:
        raise InputError(
            f"wanted cutouts of {shape} (bands, height, width), got {data.settings['shape']} in "
            f"{storage.public_uri(data.uri)}; pack them with `--like MODEL`"
        )
    return differing


def _pixel_settings(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a folder that change pixels: not the mask's, which is kept beside them.

    Folders from before a setting was there were made as its default makes them.
    """
    settings = {**Preprocessing().model_dump(mode="json"), **preprocessing}
    del settings["source_mask"]
    return settings
