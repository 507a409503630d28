"""Labelled data sets in their published layouts: listed when opened, read sample by sample."""
