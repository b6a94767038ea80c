"""How many CPUs there are for the processes of a run."""

from joblib import cpu_count


def cores() -> int:
    """CPUs that this process may use: by its affinity and its container's quota too."""
    return int(cpu_count())
