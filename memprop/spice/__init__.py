"""Engines: the only place that starts a simulator."""
