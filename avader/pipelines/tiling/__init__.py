"""Inside of `hats`: what a worker does with a tile, and the collection's own files."""
