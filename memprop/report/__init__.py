"""Figures, tables and progress."""
