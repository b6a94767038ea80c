"""Whether there is nothing to do, asked before anything that takes long to load is loaded."""

from avader.config import UnitSettings
from avader.io import manifest, storage
from avader.pipelines.progress import say
from avader.plan import Plan


def is_finished(plan: Plan, settings: UnitSettings) -> bool:
    """Whether a plan's folder is finished, which it then says; a dry run is told by itself.

    Raises InputError where the folder holds another plan.
    """
    out = storage.absolute(settings.out)
    if settings.dry_run or not (manifest.check_plan(out, plan) and manifest.is_finished(out)):
        return False
    say_finished(settings)
    return True


def say_finished(settings: UnitSettings) -> None:
    """Say that there is nothing to do."""
    say(f"{settings.out} is finished already: nothing to do")
