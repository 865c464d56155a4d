"""Fused kernels: the whole loop over time of a population in compiled code, forward and adjoint, from the cell's equations."""
