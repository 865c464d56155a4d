"""Cells, networks as graphs, and their elaboration into PySpice circuits."""
