"""Weights that others released, turned into ours."""
