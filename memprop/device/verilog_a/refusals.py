"""What the equations cannot express, and what to write instead; and what is left out without harm."""

from __future__ import annotations

HIDDEN = "which simulators with OSDI lose"
_TIME = "A device must not know the time; drive it by a source"
_STATE = "Write the integral as a state: an internal node x with I(x) <+ ddt(V(x)); I(x) <+ -(integrand)"
_FILTER = "Write the filter as states on internal nodes"
_RANDOM = "Draw random numbers outside and give them as parameters"
_SMOOTH = "Write a smooth function of voltages instead of an event"

REFUSED = {
    "idt": _STATE,
    "idtmod": _STATE,
    "ddx": "Write the derivative out",
    "$abstime": _TIME,
    "$realtime": _TIME,
    "analysis": "Give the state an equation that holds in every analysis, e.g. a leak I(x) <+ (V(x) - x0)/tret",
    "transition": "Write a smooth function of voltages, e.g. tanh",
    "slew": "Write the limited rate as a state on an internal node",
    "absdelay": "Write the delay as a chain of states on internal nodes",
    "delay": "Write the delay as a chain of states on internal nodes",
    **dict.fromkeys(
        ("laplace_nd", "laplace_np", "laplace_zd", "laplace_zp", "zi_nd", "zi_np", "zi_zd", "zi_zp"), _FILTER
    ),
    **dict.fromkeys(
        ("$random", "$arandom", "$rdist_normal", "$rdist_uniform", "$rdist_exponential", "$dist_normal"), _RANDOM
    ),
    "$table_model": "Write the table as an expression",
    "$param_given": "It depends on who writes the parameters; mark 'not given' by a default outside of the range, and compare with it",
    "cross": _SMOOTH,
    "above": _SMOOTH,
    "last_crossing": _SMOOTH,
    "$clog2": "Write a real logarithm: ln(x)/ln(2.0)",
    "$fopen": "Write files outside of the device",
    "$test$plusargs": "Use an integer parameter",
}
"""Name -> remedy."""
NOISE = {"white_noise", "flicker_noise", "noise_table", "noise_table_log"}
"""Sources of noise, which contribute nothing here."""
SILENT = {
    "$strobe", "$display", "$write", "$debug", "$monitor", "$warning", "$error", "$info", "$fatal", "$finish", "$stop",
    "$fdisplay", "$fwrite", "$fstrobe", "$fdebug", "$fclose", "$bound_step", "$discontinuity",
}  # fmt: skip
"""Tasks that change no equation."""
SIMPARAM = {
    "gmin": "1e-12", "imax": "1", "tnom": "27", "scale": "1", "shrink": "0", "iteration": "1", "gdev": "0", "sourceScaleFactor": "1",
}  # fmt: skip
"""Values of $simparam(), those of the simulators' defaults."""
EVENT = (
    "Open simulators lose what events store. Give the state an internal node with ddt and a DC solution, e.g. a leak "
    "I(x) <+ (V(x) - x0)/tret"
)
