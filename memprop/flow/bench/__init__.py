"""Benchmarks: every speed is a ratio taken in one run, with error, sizes and spread, and a figure of how cost grows."""
