"""A trained model made fast: same numbers, fixed tiles."""
