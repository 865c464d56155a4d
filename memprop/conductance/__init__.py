"""Signed weight <-> conductance pair."""
