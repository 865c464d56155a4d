"""Cells and devices that a user puts into a folder: twin, ngspice and VACASK agree, alone, in a network and from a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PySpice.Spice.Netlist import SubCircuit
from scipy.interpolate import PchipInterpolator

from memprop.circuit.cell import Cell, as_cell, find_cell, load_cell
from memprop.circuit.elaborate import elaborate
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, Split
from memprop.deck.deck import Deck, Transient
from memprop.deck.models import cell_models
from memprop.deck.ngspice import make_deck
from memprop.errors import BundleError, InputError
from memprop.export.bundle import load_bundle
from memprop.export.replay import replay
from memprop.flow.loop import export_bundle, provenance
from memprop.flow.simulate import SpiceSettings, simulate_images
from memprop.spice.engine import Engine
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw
from memprop.spice.vacask import VacaskEngine
from memprop.twin.cell import CellTwin
from memprop.twin.network import Twin, from_network

F64 = torch.float64
STOP = 40e-6
CORNERS = np.linspace(0.0, STOP, 17)
"""Times in s between which the input current runs straight."""
Array = NDArray[np.float64]

MY_DEVICE = """
`include "disciplines.vams"
// A volatile device that heats up: its conductance grows with the square of its state, and the heat with that of the voltage.
module my_device(p, n);
    inout p, n;
    electrical p, n;
    (* desc = "Heat", units = "V" *) electrical s;
    (* desc = "Conductance, cold", units = "S" *) parameter real g0 = 5e-6 from (0:inf);
    (* desc = "Voltage that heats", units = "V" *) parameter real vs = 0.05 from (0:inf);
    (* desc = "Time constant", units = "s" *) parameter real tau = 5e-6 from (0:inf);
    real rise;
    analog begin
        rise = V(p, n) * V(p, n) / (vs * vs);
        I(p, n) <+ g0 * (1.0 + 8.0 * V(s) * V(s)) * V(p, n);
        I(s) <+ ddt(tau * V(s)) + V(s) - rise * (1.0 - V(s));
    end
endmodule
"""
MY_CARD = """
name = "my_device"
description = "A device of a user"

[presets.slow]
source = "made up for this test"
values = { tau = 2e-5 }
"""
MY_SWITCH = """
`include "disciplines.vams"
// A channel from d to s that a gate opens, with a capacitance at the gate: three terminals, no state.
module my_switch(d, g, s);
    inout d, g, s;
    electrical d, g, s;
    (* desc = "Gain", units = "A/V2" *) parameter real k = 2e-4 from (0:inf);
    (* desc = "Threshold", units = "V" *) parameter real vth = 0.02;
    (* desc = "Width", units = "V" *) parameter real w = 0.02 from (0:inf);
    (* desc = "Capacitance at the gate", units = "F" *) parameter real cg = 2e-11 from [0:inf);
    analog begin
        I(d, s) <+ k * w * ln(1.0 + exp((V(g, s) - vth) / w)) * V(d, s);
        I(g, s) <+ ddt(cg * V(g, s));
    end
endmodule
"""
MSS = "ron=1e3 roff=1e5 von=0.11 voff=-0.005 vt=0.015 tau=2e-5"


def card(name: str, models: tuple[str, ...], parameters: Mapping[str, float], e2: float) -> str:
    listed = "\n".join(f'{n} = {{ default = {v!r}, unit = "", description = "own" }}' for n, v in parameters.items())
    return f"""
name = "{name}"
description = "a cell of a user"
sources = []
kind = "neuron"
ports = ["mem", "e1", "e2", "ref"]
models = {list(models)!r}
[supplies]
e1 = {{ voltage = 0.0, description = "first" }}
e2 = {{ voltage = {e2!r}, description = "second" }}
[parameters]
{listed}
"""


@dataclass(frozen=True)
class Own:
    """A cell of a user: the lines of its subcircuit, its models, and how it is driven."""

    lines: str
    models: tuple[str, ...] = ("mss_memristor.lib",)
    splits: bool = True
    peak: float = 10e-6
    """Largest input current in A."""
    dt: float = 0.025e-6
    """Time step of the twin in s."""
    e2: float = 0.05
    limit: float = 2e-4
    """Largest deviation from a simulator, relative to the swing of the membrane."""


OWN: dict[str, Own] = {
    "own_device": Own("cmem mem ref {c}\nx1 mem e2 my_device g0=4e-6\nx2 mem e1 my_device_slow", ("my_device.va",)),
    "charge_at_the_port": Own("cmem mem ref {c}\nx1 e2 mem ref my_switch\nrl mem ref 2e4", ("my_switch.va",)),
    "gate_at_the_membrane": Own("rl mem ref 2e4\nx1 mem mem ref my_switch cg={2*c}", ("my_switch.va",)),
    "series_resistor": Own(
        f"cmem mem ref {{c}}\nrser mem a 5e3\nx1 a e1 mss_memristor_ohmic {MSS}", splits=False, dt=0.1e-6
    ),
    "two_in_series": Own(
        f"cmem mem ref {{c}}\nx1 mem a mss_memristor_ohmic {MSS}\nx2 a e1 mss_memristor_mif\nrl mem e2 1e5",
        splits=False,
        dt=0.1e-6,
    ),
    "transconductance": Own(
        f"cmem mem gnd {{c}}\nx1 mem e1 mss_memristor_ohmic {MSS}\ng1 ref mem mem e2 1e-5\nrl mem 0 5e4"
    ),
    "controlled_source": Own(
        "cmem mem ref {2*c}\neb b ref mem e2 0.5\nrb b mem 2e4\nec d gnd ref e2 0.5\nrd d mem 1e5\nrl mem ref 4e4",
        splits=False,
        dt=0.1e-6,
    ),
    "mirror": Own("cmem mem ref {c}\nrl mem a 2e4\nvs a ref 0.01\nf1 ref mem vs 0.25", splits=False, dt=0.1e-6),
    "schottky": Own("cmem mem ref {100*c}\nx1 mem e2 mss_memristor_xyce_demo tau=5e-6 sra=4e-4", peak=2e-3),
    "three_terminals": Own("cmem mem ref {c}\nrl mem ref 1e5\nx1 mem e2 ref my_switch", ("my_switch.va",)),
    "resting_current": Own(
        f"cmem mem ref {{c}}\nc2 mem e2 {{c/4}}\nibias ref mem 1e-6\nx1 mem e1 mss_memristor_ohmic {MSS}"
    ),
}


def write(folder: Path, name: str, own: Own, parameters: Mapping[str, float] | None = None) -> Path:
    """Write a cell and the devices of a user into a folder of its own."""
    home, parameters = folder / name, parameters or {"c": 1e-10}
    home.mkdir()
    listed = " ".join(f"{key}={value!r}" for key, value in parameters.items())
    (home / "cell.cir").write_text(f".subckt {name} mem e1 e2 ref params: {listed}\n{own.lines}\n.ends {name}\n")
    (home / "cell.toml").write_text(card(name, own.models, parameters, own.e2))
    (home / "my_device.va").write_text(MY_DEVICE)
    (home / "my_device.toml").write_text(MY_CARD)
    (home / "my_switch.va").write_text(MY_SWITCH)
    return home


def currents(peak: float, seed: int = 1) -> Array:
    """Return input currents in A at `CORNERS`."""
    values = peak * np.random.default_rng(seed).uniform(-0.4, 1.0, len(CORNERS))
    values[0] = 0.0
    return values


def deck(cell: Cell, peak: float, instances: tuple[str, ...] = ("",), step: float = 0.05e-6) -> Deck:
    """Return a deck of instances of a cell under the same current."""
    files, verilog = cell_models([cell])
    points = " ".join(f"{t!r} {i!r}" for t, i in zip(CORNERS.tolist(), currents(peak).tolist(), strict=True))
    lines = [f"v_{rail} {rail} 0 {supply.voltage!r}" for rail, supply in cell.card.supplies.items()]
    for k, given in enumerate(instances):
        lines += [f"i_in{k} 0 mem{k} pwl({points})", f"x_cell{k} mem{k} e1 e2 0 {cell.name} {given}"]
    files |= {"cells.inc": cell.text, "test.inc": "\n".join([*lines, ""])}
    options = {"reltol": 1e-6, "abstol": 1e-14, "vntol": 1e-9, "method": "trap"}
    nodes = tuple(f"mem{k}" for k in range(len(instances)))
    return Deck(f"cell {cell.name}", files, Transient(STOP, step), nodes, (), options, verilog)


@torch.no_grad()
def twin_of(cell: Cell, peak: float, dt: float, size: int = 1, **options: Any) -> tuple[CellTwin, Array, Array]:
    """Return a twin, its time points in s and its membranes in V, ``[T + 1, N]``."""
    twin = CellTwin(size, dt, cell=cell, dtype=F64, **options)
    time = np.arange(round(STOP / dt) + 1) * dt
    drive = torch.tensor(np.interp(time, CORNERS, currents(peak)))[:, None, None]
    return twin, time, twin.trace(drive.expand(-1, 1, size))[:, 0].numpy()


def deviation(engine: Engine, case: Deck, time: Array, membrane: Array) -> float:
    """Return the largest deviation of a simulator from the twin at any time point, relative to the swing."""
    found = engine.run(case)
    own = found["time"].values
    first = np.append(True, np.diff(own) > 0)
    errors = []
    for k, node in enumerate(case.nodes):
        waveform = PchipInterpolator(own[first], found[node].values[first])(np.minimum(time, own[-1]))
        errors.append(np.abs(waveform - membrane[:, k]).max() / np.ptp(membrane[:, k]))
    return float(max(errors))


@pytest.mark.parametrize("name", OWN)
def test_twin_of_a_users_cell_is_what_both_simulators_say(tmp_path: Path, name: str) -> None:
    own = OWN[name]
    cell = find_cell(str(write(tmp_path, name, own)))
    twin, time, membrane = twin_of(cell, own.peak, own.dt)
    assert (twin.method == "splitting") == own.splits, twin.method
    case = deck(cell, own.peak)
    errors = [deviation(engine, case, time, membrane) for engine in (NgspiceEngine(), VacaskEngine())]
    assert np.ptp(membrane) > 0.05
    assert max(errors) < own.limit


def test_parameters_of_each_neuron_and_expressions_of_them_reach_every_engine(tmp_path: Path) -> None:
    own = Own(
        "cmem mem ref {2*c}\nx1 mem e1 my_device g0={g/2} vs={max(0.03, 10*g*1e3)} tau={3*sqrt(c*c)*4e4}",
        ("my_device.va",),
    )
    cell = find_cell(str(write(tmp_path, "spread", own, {"c": 1e-10, "g": 1e-5})))
    values = {"c": [0.6e-10, 1e-10, 1.5e-10], "g": [8e-6, 1e-5, 3e-6]}
    _, time, membrane = twin_of(cell, own.peak, own.dt, 3, parameters=values)
    case = deck(cell, own.peak, tuple(f"c={c!r} g={g!r}" for c, g in zip(values["c"], values["g"], strict=True)))
    assert np.abs(membrane - membrane[:, [1, 2, 0]]).max() > 0.01, "the neurons must differ"
    assert deviation(NgspiceEngine(), case, time, membrane) < own.limit
    assert deviation(VacaskEngine(), case, time, membrane) < own.limit


def test_subcircuit_made_in_pyspice_has_a_twin() -> None:
    own = SubCircuit("Leaky", "mem", "e1", "e2", "ref", c=2e-10)
    own.C("mem", "mem", "ref", "{c}")
    own.R("leak", "mem", "E2", "100k")
    own.X("switch", "mss_memristor_mif", "mem", "e1", tau=2e-5)
    cell = as_cell(own, "neuron", "mif")
    twin, time, membrane = twin_of(cell, 10e-6, 0.025e-6)
    assert twin.method == "splitting"
    case = deck(cell, 10e-6)
    assert deviation(NgspiceEngine(), case, time, membrane) < 2e-4
    assert deviation(VacaskEngine(), case, time, membrane) < 2e-4


def test_preset_in_the_card_of_a_users_device_is_a_subcircuit(tmp_path: Path) -> None:
    write(tmp_path, "own_device", OWN["own_device"])
    cell = load_cell("own_device", tmp_path)
    (device,) = cell.devices().values()
    assert list(device.forms) == ["my_device", "my_device_slow"]
    files, (verilog,) = cell_models([cell])
    assert list(files) == ["models/my_device.lib"] == [verilog.file]
    assert ".subckt my_device_slow p n params: g0=5e-6 vs=0.05 tau=2e-5" in files["models/my_device.lib"]


# In a network, and from a bundle

ENCODER = AlphaEncoder(v_peak=0.2, rise=5e-6, onsets=(0.0, 10e-6), duration=20e-6)


def images() -> Images:
    """Return two images of two by three pixels."""
    pixels = np.array([[[10, 0, 3], [4, 8, 1]], [[0, 9, 2], [10, 10, 0]]], dtype=np.uint8)
    labels = np.array([0, 1], dtype=np.uint8)
    return Images("fake", Split(pixels, labels), Split(pixels, labels), 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a user, with a cell and its device."""
    folder = tmp_path_factory.mktemp("circuits")
    write(folder, "mine", OWN["own_device"])
    return folder


@pytest.fixture(scope="module")
def twin(folder: Path) -> Twin:
    return Twin(
        (6, 3, 2),
        ENCODER,
        dt=0.1e-6,
        cell=load_cell("mine", folder),
        parameters={"x1": {"c": [1e-10, 2e-10, 0.7e-10]}},
        dtype=F64,
    )


def worst(twin: Twin, results: Any) -> float:
    """Return the largest deviation in V of any membrane at any time point of any image."""
    assert not results.failed
    pixels = torch.from_numpy(images().pixels("test", np.array(sorted(results.done))))
    traces = torch.cat(list(twin.traces(pixels).values()), dim=2).numpy()
    membranes = np.stack([results.done[k].membranes for k in sorted(results.done)], axis=1)
    assert np.ptp(membranes, axis=0).max() > 0.1
    return float(np.abs(traces - membranes).max())


@pytest.mark.parametrize(
    ("form", "engine"), [("reduced", NgspiceEngine()), ("full", NgspiceEngine()), ("reduced", VacaskEngine())]
)
def test_network_of_a_users_cells_does_in_spice_what_its_twin_does(twin: Twin, form: Any, engine: Engine) -> None:
    settings = SpiceSettings(form, 0.05e-6, twin.dt, workers=1)
    assert worst(twin, simulate_images(twin.to_network("net"), ENCODER, images(), [0, 1], engine, settings)) < 1e-4


def test_network_of_firing_neurons_does_in_spice_what_its_twin_does() -> None:
    """The neurons start discharged and fire by themselves; the image moves the times of their spikes."""
    encoder = AlphaEncoder(v_peak=0.3, rise=1e-6, onsets=(0.0,), duration=3e-6)
    twin = Twin((6, 2, 2), encoder, dt=1e-9, cell="threshold_neuron", dtype=F64)
    settings = SpiceSettings("reduced", 1e-9, twin.dt, workers=1)
    results = simulate_images(twin.to_network("net"), encoder, images(), [0], NgspiceEngine(), settings)
    assert float(results.done[0].outputs.max()) > 0.9, "the output must fire"
    assert worst(twin, results) < 3e-3


def test_network_of_a_users_cells_learns(twin: Twin) -> None:
    pixels = torch.from_numpy(images().pixels("test", np.array([0, 1])))
    twin(pixels).square().sum().backward()
    for crossbar in twin.crossbars:
        assert crossbar.weight.grad is not None
        assert float(crossbar.weight.grad.abs().min()) > 0.0
        crossbar.weight.grad = None


@pytest.fixture(scope="module")
def bundle(twin: Twin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "own"
    network, engine = twin.to_network("net"), NgspiceEngine()
    settings = SpiceSettings("reduced", dt=twin.dt, workers=1)
    done = simulate_images(network, ENCODER, images(), [0, 1], engine, settings).done
    origin = provenance(twin, images(), engine, {"agreement": 1.0, "spice_images": 2}, 3)
    export_bundle(folder, network, ENCODER, images(), [("reduced", done[0]), ("reduced", done[1])], origin)
    return folder


def test_bundle_carries_the_users_device_and_replays(bundle: Path) -> None:
    assert {p.name for p in (bundle / "models").iterdir()} == {
        "my_device.va",
        "my_device.toml",
        "my_device.lib",
        "mss_memristor.va",
        "mss_memristor.toml",
        "mss_memristor.lib",
    } - {f"mss_memristor{suffix}" for suffix in (".va", ".toml", ".lib")}
    assert (bundle / "models" / "my_device.va").read_text() == MY_DEVICE

    def columns(path: Path, title: str) -> dict[str, Array]:
        plot = read_raw(path, title)[0]
        return {name: np.ascontiguousarray(plot.values[:, k].real) for k, name in enumerate(plot.variables)}

    verdicts = replay(bundle, NgspiceEngine().batch, columns)
    assert len(verdicts) == 2 * (6 + 2)
    assert [v for v in verdicts if not v.passed] == []


def test_bundle_needs_the_users_folder_no_longer(bundle: Path, twin: Twin, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "sent"))
    network, encoder, _ = load_bundle(copy)
    again = from_network(network, encoder, twin.dt, F64)
    pixels = torch.from_numpy(images().pixels("test", np.array([0, 1])))
    with torch.no_grad():
        assert float((again(pixels) - twin(pixels)).abs().max()) < 1e-12
    stimulus = encoder.stimulus(pixels[0])
    ours, theirs = (
        make_deck(elaborate(n, "reduced", stimulus), 0.25e-6, 20e-6) for n in (twin.to_network("net"), network)
    )
    assert ours.files["models/my_device.lib"] == theirs.files["models/my_device.lib"]
    assert ours.verilog == theirs.verilog
    settings = SpiceSettings("reduced", 0.05e-6, twin.dt, workers=1)
    assert worst(again, simulate_images(network, encoder, images(), [0, 1], VacaskEngine(), settings)) < 1e-4


def test_bundle_with_another_device_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "sent"))
    model = copy / "models" / "my_device.va"
    model.write_text(MY_DEVICE.replace("8.0", "9.0"))
    with pytest.raises(BundleError, match=r"my_device\.va"):
        load_bundle(copy)
    with pytest.raises(
        BundleError, match=r"models/my_device\.lib is not what this memprop makes of the Verilog-A beside it"
    ):
        load_bundle(copy, edited=True)


# What is refused, and what is simulated without a twin


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("b1 mem ref i = 0*v(mem)", r"cell odd, line 3, b1: element 'b' has no twin\. Use r, c, v, i, e, f, g and devices in Verilog-A\."),
        ("lcoil mem ref 1e-3", r"cell odd, line 3, lcoil: element 'l' has no twin"),
        ("q1 mem e1 ref npn", r"cell odd, line 3: element 'q1' is of a kind that memprop does not read"),
        ("x1 mem ref other", r"cell odd, line 3, x1: subcircuit 'other' is no device with a Verilog-A model\. Known: my_device"),
        ("x1 mem e1 ref my_device", r"cell odd, line 3, x1: 3 nodes for the ports p n of my_device\."),
        ("x1 mem ref my_device gain=2", r"cell odd, line 3, x1: my_device has no parameter 'gain'\. Known: g0, vs, tau\."),
        ("x1 mem ref my_device g0={2*k}", r"cell odd, line 3, x1: 'k' is no parameter of subcircuit odd\. Declare it in its first line\."),
        ("x1 mem ref my_device g0={2*}", r"cell odd, line 3, x1: expression '2\*': .* Correct the expression\."),
        ("x1 mem ref my_device g0=-1e-6", r"parameter odd\.x1\.g0 = -1e-06 S is not finite, above 0\.0 S\."),
        ("x1 mem ref my_device g0={c-1e-10}", r"parameter odd\.x1\.g0 = 0\.0 S is not finite, above 0\.0 S\."),
        ("r1 mem ref 1e4\n.ic v(elsewhere)=0", r"cell odd: \.ic names 'elsewhere', which is no free node\. Known: mem\."),
        ("r1 mem ref 1e4\n.ic v(e1)=0", r"cell odd: \.ic names 'e1', which is no free node\. Known: mem\."),
        ("f1 mem ref vnone 2", r"a mirror measures the voltage source 'vnone', which is not there"),
    ],
    ids=lambda value: value.split(maxsplit=1)[0] if " mem" in value else None,
)  # fmt: skip
def test_cell_that_can_have_no_twin_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    write(tmp_path, "odd", Own(f"cmem mem ref {{c}}\n{lines}", ("my_device.va",)))
    with pytest.raises(InputError, match=message):
        CellTwin(1, cell=load_cell("odd", tmp_path))


def test_missing_model_is_named(tmp_path: Path) -> None:
    write(tmp_path, "odd", Own("cmem mem ref {c}\nx1 mem ref nothing", ("nothing.va",)))
    with pytest.raises(InputError, match=r"nothing\.va is not there\. In that folder: .*mss_memristor"):
        CellTwin(1, cell=load_cell("odd", tmp_path))
    with pytest.raises(InputError, match=r"nothing\.va is not there\. In that folder: .*mss_memristor"):
        cell_models([load_cell("odd", tmp_path)])


def test_cell_with_behavioural_subcircuits_only_has_no_twin_but_simulates(tmp_path: Path) -> None:
    home = write(tmp_path, "odd", Own("cmem mem ref {c}\nx1 mem ref plain", ("plain.lib",)), {"c": 1e-12})
    (home / "plain.lib").write_text(".subckt plain p n\nr1 p n 1e4\n.ends plain\n")
    cell = load_cell("odd", tmp_path)
    with pytest.raises(InputError, match=r"x1: subcircuit 'plain' is no device with a Verilog-A model\. Known: none\."):
        CellTwin(1, cell=cell)
    found = NgspiceEngine().run(deck(cell, 1e-6))
    assert found["mem0"].values[-1] == pytest.approx(currents(1e-6)[-1] * 1e4, rel=0.01)


def test_library_that_is_no_text_is_refused(tmp_path: Path) -> None:
    home = write(tmp_path, "odd", Own("cmem mem ref {c}\nx1 mem ref plain", ("plain.lib",)))
    (home / "plain.lib").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"device model .*plain\.lib cannot be read .* Check that it is UTF-8 text\."):
        cell_models([load_cell("odd", tmp_path)])


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = (write(tmp_path, name, OWN["own_device"]) for name in ("one", "two"))
    (two / "my_device.va").write_text(MY_DEVICE.replace("8.0", "9.0"))
    with pytest.raises(
        InputError, match=r"cells bring two different models 'models/my_device\.lib'\. Rename one of them\."
    ):
        cell_models([find_cell(str(one)), find_cell(str(two))])


def test_device_with_alternatives_that_voltage_and_state_decide_is_that_of_ngspice(tmp_path: Path) -> None:
    """Slopes alone would lose the steps: of the current at 0.06 V, of the rate at half of the state, of the window's end."""
    folder = tmp_path / "stepped"
    folder.mkdir()
    (folder / "stepper.va").write_text(
        """`include "disciplines.vams"
module stepper(p, n);
  inout p, n; electrical p, n, x;
  real goal, from_end;
  analog begin
    goal = (V(x) < 0.5) ? 1.0 : 0.8;
    from_end = (V(p, n) < 0.04) ? V(x) - 1.0 : V(x);
    I(p, n) <+ 2e-5 * V(p, n) * (1.0 + V(x)) + ((V(p, n) > 0.06) ? 1e-6 : 0.0);
    I(x) <+ ddt(1e-5 * V(x));
    I(x) <+ V(x) - goal * V(p, n) / 0.1 * (1.0 - 0.5 * abs(from_end));
  end
endmodule
"""
    )
    (folder / "cell.cir").write_text(
        ".subckt stepped mem e1 e2 ref params: c=1e-10\ncmem mem ref {c}\nrtie e1 e2 1e9\nx1 mem ref stepper\n.ends stepped\n"
    )
    (folder / "cell.toml").write_text(
        """name = "stepped"
description = "a cell"
sources = ["none"]
kind = "neuron"
ports = ["mem", "e1", "e2", "ref"]
models = ["stepper.va"]
[supplies]
e1 = { voltage = 0.0, description = "rail" }
e2 = { voltage = 0.05, description = "rail" }
[parameters]
c = { default = 1e-10, unit = "F", description = "capacitance" }
"""
    )
    cell = find_cell(str(folder))
    dt, steps = 0.02e-6, 2500
    twin = CellTwin(1, dt, cell=cell, dtype=torch.float64)
    time = dt * torch.arange(steps + 1, dtype=torch.float64)
    drive = 6e-6 * torch.sin(2 * torch.pi * 3e4 * time) ** 2
    found = twin.trace(drive.reshape(-1, 1, 1)).flatten().numpy()
    source = f"i1 0 mem sin(3e-6 -3e-6 {6e4!r} 0 0 90)"
    files = {"models/stepper.lib": cell.devices()["stepper.va"].library(), "cell.inc": cell.text,
             "top.inc": f"{source}\nve1 e1 0 0\nve2 e2 0 0.05\nxc mem e1 e2 0 stepped\n"}  # fmt: skip
    deck = Deck("stepped", files, Transient(float(time[-1]), dt), ("mem",), (), {"reltol": 1e-6})
    recording = NgspiceEngine().run(deck)
    expected = np.interp(time.numpy(), recording["time"].values, recording["mem"].values)
    assert np.abs(found - expected).max() < 2e-3 * np.ptp(expected)
