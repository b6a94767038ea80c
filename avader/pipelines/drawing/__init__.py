"""The parts of `generate`: what a run adds to a sky, and what is done to each unit."""
