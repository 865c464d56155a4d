"""Differentiable twins of circuits."""
