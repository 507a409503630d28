"""Folders, on this machine or in an object store, in which files appear whole or not at all."""
