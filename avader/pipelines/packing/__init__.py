"""The parts of `pack`: how a source is cut into units, and what is done to each of them."""
