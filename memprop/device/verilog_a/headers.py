"""The standard headers of Verilog-A, as far as device models use them.

Values of the constants are those that the compilers put into their own headers (Accellera Verilog-AMS 2.4, annex D).
"""

CONSTANTS = """
`define M_E 2.7182818284590452354
`define M_LOG2E 1.4426950408889634074
`define M_LOG10E 0.43429448190325182765
`define M_LN2 0.69314718055994530942
`define M_LN10 2.30258509299404568402
`define M_PI 3.14159265358979323846
`define M_TWO_PI 6.28318530717958647693
`define M_PI_2 1.57079632679489661923
`define M_PI_4 0.78539816339744830962
`define M_1_PI 0.31830988618379067154
`define M_2_PI 0.63661977236758134308
`define M_2_SQRTPI 1.12837916709551257390
`define M_SQRT2 1.41421356237309504880
`define M_SQRT1_2 0.70710678118654752440
`define P_Q 1.602176462e-19
`define P_C 2.99792458e8
`define P_K 1.3806503e-23
`define P_H 6.62606876e-34
`define P_EPS0 8.854187817e-12
`define P_U0 (4.0e-7 * `M_PI)
`define P_CELSIUS0 273.15
"""

_ENDINGS = ("vams", "va", "h", "vh", "inc")
HEADERS = {
    **{f"constants.{ending}": CONSTANTS for ending in _ENDINGS},
    **{f"{name}.{ending}": "" for name in ("disciplines", "discipline") for ending in _ENDINGS},
}
"""Name -> text. Disciplines are known to the reader, so their header is empty."""

NATURES = {
    "electrical": ("V", "I"), "voltage": ("V", ""), "current": ("", "I"), "thermal": ("Temp", "Pwr"), "magnetic": ("MMF", "Phi"),
    "kinematic": ("Pos", "F"), "kinematic_v": ("Vel", "F"), "rotational": ("Theta", "Tau"), "rotational_omega": ("Omega", "Tau"),
}  # fmt: skip
"""Discipline -> access functions of potential and flow, empty where it has none."""
ACCESS = {
    "Voltage": "V", "Current": "I", "Charge": "Q", "Temperature": "Temp", "Power": "Pwr", "Magneto_Motive_Force": "MMF", "Flux": "Phi",
    "Position": "Pos", "Velocity": "Vel", "Force": "F", "Angle": "Theta", "Angular_Velocity": "Omega", "Angular_Force": "Tau",
}  # fmt: skip
"""Nature -> access function, of the standard header."""
PREDEFINED = ("__VAMS__", "__VAMS_COMPACT_MODELING__", "__OPENVAF__")
"""Macros that openvaf-r defines by itself: a file must mean the same here and compiled."""
