"""How many CPUs there are for the processes of a run."""


def cores() -> int:
    """CPUs that this process may use: by its affinity and its container's quota too."""
    from joblib import cpu_count  # takes 0.3 s, and workers do not ask

    return int(cpu_count())
