"""Bundles for designers, and their replay."""
