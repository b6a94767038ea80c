"""Whether there is nothing to do, asked before anything that takes long to load is loaded."""

from avader.config import UnitSettings
from avader.io import manifest, storage
from avader.pipelines.progress import say
from avader.plan import Plan


def is_done(plan: Plan, uri: str) -> bool:
    """Whether a folder holds this plan, finished. Raises InputError where it holds another one."""
    out = storage.absolute(uri)
    return manifest.check_plan(out, plan) and manifest.is_finished(out)


def say_finished(settings: UnitSettings) -> None:
    """Say that there is nothing to do."""
    say(f"{settings.out} is finished already: nothing to do")
