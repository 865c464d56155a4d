"""The summary as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

ROWS: tuple[tuple[str, str, float, str], ...] = (
    ("twin_accuracy", "accuracy of the twin, whole test set", 100.0, "%"),
    ("twin_images", "test images of the twin", 1.0, ""),
    ("spice_accuracy", "accuracy in SPICE", 100.0, "%"),
    ("spice_accuracy_low", "  at least, with 95 % confidence", 100.0, "%"),
    ("spice_accuracy_high", "  at most", 100.0, "%"),
    ("spice_images", "images simulated in SPICE", 1.0, ""),
    ("spice_failed", "images that failed in SPICE", 1.0, ""),
    ("spice_cached", "of these found finished", 1.0, ""),
    ("twin_accuracy_same_images", "accuracy of the twin on these images", 100.0, "%"),
    ("agreement", "twin and SPICE give the same class", 100.0, "%"),
    ("waveform_images", "images whose membranes are compared", 1.0, ""),
    ("waveform_rms_v", "membranes, twin against SPICE, rms", 1e3, "mV"),
    ("waveform_peak_v", "membranes, twin against SPICE, peak", 1e3, "mV"),
    ("mean_output_rms_v", "mean outputs, twin against SPICE, rms", 1e3, "mV"),
    ("full_images", "images with every RRAM cell in the netlist", 1.0, ""),
    ("full_failed", "of these failed", 1.0, ""),
    ("full_against_reduced_peak_v", "outputs, full against reduced netlist, peak", 1e3, "mV"),
    ("membrane_min_v", "lowest membrane in SPICE", 1.0, "V"),
    ("membrane_max_v", "highest membrane in SPICE", 1.0, "V"),
    ("images_outside_limits", "images that leave the limits of the cell's card", 1.0, ""),
    ("energy_crossbars_j", "energy per image, crossbars", 1e9, "nJ"),
    ("energy_neurons_j", "energy per image, neurons", 1e9, "nJ"),
)
"""Key, words, factor from SI, unit shown."""


def summary_table(title: str, measured: Mapping[str, Any], seconds: Mapping[str, float]) -> Table:
    """Return the measured values and the wall time of each stage."""
    table = Table("what", "value", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for key, words, factor, unit in ROWS:
        if measured.get(key) is not None:
            value = measured[key] * factor
            shown = str(measured[key]) if unit == "" else f"{value:.2f} %" if unit == "%" else f"{value:.4g} {unit}"
            table.add_row(words, shown)
    for key in ("engine", "workers"):
        if key in measured:
            table.add_row(key, str(measured[key]))
    for stage, duration in seconds.items():
        table.add_row(f"wall time, {stage}", f"{duration:.1f} s")
    return table
