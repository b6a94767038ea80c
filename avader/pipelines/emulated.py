"""What people are told who ask for arithmetic that their machine must emulate."""

from avader.config import InferenceSettings
from avader.pipelines.progress import say
from avader.training.precision import has_native_bfloat16


def say_emulated(settings: InferenceSettings) -> None:
    """Say that bfloat16 is slow here, where it is; a cluster's other machines may be otherwise."""
    if settings.precision == "float32" or settings.device == "gpu":
        return
    if not has_native_bfloat16("cpu"):
        say(
            "this CPU has no bfloat16 of its own and emulates it, up to ten times slower than "
            "float32; --precision float32 is faster here"
        )
