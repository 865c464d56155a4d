"""Devices: cards with ranges and presets, and the equations in torch."""
