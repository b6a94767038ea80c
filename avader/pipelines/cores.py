"""How many CPUs there are for the processes of a run."""


def cores() -> int:
    """CPUs that this process may use: by its affinity and its container's quota too."""
    from joblib import cpu_count  # 0.3 s, and memory of every worker, none of which asks

    return int(cpu_count())
