"""Twins against waveforms of SPICE: the waveforms themselves, fits, and what a fit is worth."""
