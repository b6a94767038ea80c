"""Cutouts: bytes become checked, model-ready pixels."""
