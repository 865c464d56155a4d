"""The closed loop, joining all packages: train on the twin, write back, simulate in SPICE, export."""
