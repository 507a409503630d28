"""Smaller forms of patch maps: fewer channels, and a byte for each value."""
