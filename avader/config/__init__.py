"""Settings of every job: typed, checked, each with its meaning and unit.

A setting comes, strongest first, from the command line, the environment (AVADER_...), the TOML
text of `--config`, the recipe (train and tune) and the default here. This room opens no file: the
caller gives the text.
"""

from avader.config.base import ClusterSettings, JobSettings, Machine, UnitSettings
from avader.config.catalogues import (
    ClassifySettings,
    CompactSettings,
    ExportSettings,
    HatsSettings,
    InferenceSettings,
    ReportSettings,
    VerifySettings,
)
from avader.config.packing import PackSettings, ServiceSettings, SimulateSettings
from avader.config.parse import SETTINGS, like_preprocessing, parse, recipe_settings
from avader.config.synthetic import GenerateSettings
from avader.config.training import ImportPublishedSettings, TrainSettings, TuneSettings

__all__ = [
    "SETTINGS",
    "ClassifySettings",
    "ClusterSettings",
    "CompactSettings",
    "ExportSettings",
    "GenerateSettings",
    "HatsSettings",
    "ImportPublishedSettings",
    "InferenceSettings",
    "JobSettings",
    "Machine",
    "PackSettings",
    "ReportSettings",
    "ServiceSettings",
    "SimulateSettings",
    "TrainSettings",
    "TuneSettings",
    "UnitSettings",
    "VerifySettings",
    "like_preprocessing",
    "parse",
    "recipe_settings",
]
