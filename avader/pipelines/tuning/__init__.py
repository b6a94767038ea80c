"""What a search does on Ray Tune: trials, their records, the search over them."""
