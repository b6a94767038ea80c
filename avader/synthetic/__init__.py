"""A synthetic sky: objects addressed by their index, measured, placed and observed."""
