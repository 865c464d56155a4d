"""Learned twins: neural state-space models of cells whose equations are not at hand, trained on waveforms alone."""
