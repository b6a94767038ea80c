"""The only room that opens a path."""
