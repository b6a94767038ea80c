"""Whether there is nothing to do, asked before anything that takes long to load is loaded."""

from avader.config import UnitSettings
from avader.io import manifest, storage
from avader.pipelines.progress import say
from avader.plan import Plan


def is_finished(plan: Plan, settings: UnitSettings) -> bool:
    """Whether a plan's folder is finished, which it then says; a dry run is told by itself.

    Raises InputError where the folder holds another plan.
    """
    if settings.dry_run or not is_done(plan, settings.out):
        return False
    say_finished(settings)
    return True


def is_done(plan: Plan, uri: str) -> bool:
    """Whether a folder holds this plan, finished. Raises InputError where it holds another one."""
    out = storage.absolute(uri)
    return manifest.check_plan(out, plan) and manifest.is_finished(out)


def say_finished(settings: UnitSettings) -> None:
    """Say that there is nothing to do."""
    say(f"{settings.out} is finished already: nothing to do")
