"""Raw files: real ngspice against closed forms, round trips with an independent writer, and files that must be refused."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memprop.errors import InputError, RawFileError
from memprop.spice.raw import Plot, parse_raw, read_raw

R, C = 1e3, 1e-9
RC = f"""* RC low pass
v1 in 0 dc 0 ac 1 pulse(0 1 0 1p 1p 1 2)
r1 in out {R}
c1 out 0 {C}
.options reltol=1e-6
"""
TRAN, AC = "tran 5n 5u 0 5n", "ac dec 10 1k 10meg"

Simulate = Callable[..., tuple[Plot, ...]]


@pytest.fixture
def simulate(tmp_path: Path) -> Simulate:
    """Run the commands of a control block on the RC low pass and read ``out.raw``."""

    def run(*commands: str, cards: str = "") -> tuple[Plot, ...]:
        control = "\n".join([".control", *commands, ".endc\n"]) if commands else ""
        (tmp_path / "deck.cir").write_text(f"{RC}{cards}{control}.end\n")
        raw = [] if commands else ["-r", "out.raw"]
        call = [shutil.which("ngspice") or "ngspice", "-n", "-b", *raw, "deck.cir"]
        subprocess.run(call, cwd=tmp_path, capture_output=True, timeout=30, check=False)
        return read_raw(tmp_path / "out.raw", "rc")

    return run


# ---------------------------------------------------------------------------------------------- real ngspice


def assert_charges(plot: Plot) -> None:
    assert (plot.name, plot.title.lower()) == ("Transient Analysis", "* rc low pass")
    assert plot.variables == ("time", "v(in)", "v(out)", "i(v1)")
    assert plot.kinds == ("time", "voltage", "voltage", "current")
    assert plot.values.dtype == np.float64
    time = plot["time"]
    assert len(time) > 1000
    assert time[-1] == pytest.approx(5e-6)
    np.testing.assert_allclose(plot["V(OUT)"], 1 - np.exp(-time / (R * C)), atol=1e-5)
    late = time > 1e-10
    np.testing.assert_allclose(plot["i(v1)"][late], -np.exp(-time[late] / (R * C)) / R, atol=1e-8)


def assert_low_pass(plot: Plot) -> None:
    assert (plot.name, plot.flags) == ("AC Analysis", ("complex",))
    assert plot.variables == ("frequency", "v(in)", "v(out)", "i(v1)")
    assert plot.kinds[0] == "frequency"
    assert plot.values.dtype == np.complex128
    frequency = np.real(plot["frequency"])  # ngspice 39 -r writes whatever memory held as the imaginary part
    assert len(frequency) == 41
    np.testing.assert_allclose(frequency, np.logspace(3, 7, 41), rtol=1e-12)
    np.testing.assert_allclose(plot["v(out)"], 1 / (1 + 2j * np.pi * frequency * R * C), rtol=1e-9)


def test_binary_transient_of_batch_mode_is_the_closed_form(simulate: Simulate) -> None:
    (plot,) = simulate(cards=f".{TRAN}\n")
    assert_charges(plot)


def test_ascii_transient_is_the_closed_form_and_the_binary_one(simulate: Simulate, tmp_path: Path) -> None:
    (text,) = simulate("set filetype=ascii", TRAN, "write out.raw", "set filetype=binary", "write binary.raw")
    assert b"\nValues:\n" in (tmp_path / "out.raw").read_bytes()
    (binary,) = read_raw(tmp_path / "binary.raw")
    assert_charges(text)
    assert_charges(binary)
    np.testing.assert_allclose(text.values, binary.values, rtol=1e-15)


def test_binary_ac_of_batch_mode_is_the_closed_form(simulate: Simulate) -> None:
    (plot,) = simulate(cards=f".{AC}\n")
    assert_low_pass(plot)


def test_ascii_ac_is_the_closed_form(simulate: Simulate, tmp_path: Path) -> None:
    (plot,) = simulate("set filetype=ascii", AC, "write out.raw")
    assert b"\nValues:\n" in (tmp_path / "out.raw").read_bytes()
    assert_low_pass(plot)


def test_plots_of_several_analyses_stand_in_one_batch_file(simulate: Simulate) -> None:
    plots = {plot.name: plot for plot in simulate(cards=f".op\n.{TRAN}\n.{AC}\n")}
    assert sorted(plots) == ["AC Analysis", "Operating Point", "Transient Analysis"]
    assert plots["Operating Point"].values.shape == (1, 3)
    assert plots["Operating Point"]["v(out)"].tolist() == [0.0]
    assert_charges(plots["Transient Analysis"])
    assert_low_pass(plots["AC Analysis"])


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_plots_of_the_same_name_are_all_kept(kind: str, simulate: Simulate) -> None:
    plots = simulate(f"set filetype={kind}", TRAN, AC, "tran 5n 1u", "write out.raw tran1.all ac1.all tran2.all")
    assert [plot.name for plot in plots] == ["Transient Analysis", "AC Analysis", "Transient Analysis"]
    assert [plot.values[-1, 0].real for plot in plots] == pytest.approx([5e-6, 1e7, 1e-6])
    assert_charges(plots[0])
    assert_low_pass(plots[1])


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_unpadded_plot_of_equal_lengths_is_read(kind: str, simulate: Simulate) -> None:
    (plot,) = simulate("set nopadding", f"set filetype={kind}", TRAN, "write out.raw")
    assert plot.flags == ("real", "unpadded")
    assert_charges(plot)


@pytest.mark.parametrize("kind", ["ascii", "binary"])
@pytest.mark.parametrize("padding", ["set nopadding", "unset nopadding"])
def test_shorter_variable_is_refused_padded_or_not(kind: str, padding: str, simulate: Simulate) -> None:
    with pytest.raises(RawFileError, match=r"variable q has 3 of \d+ points\. Write variables of different lengths"):
        simulate(padding, f"set filetype={kind}", TRAN, "compose q values 1 2 3", "write out.raw time out q")


def test_real_file_cut_at_its_end_is_refused(simulate: Simulate, tmp_path: Path) -> None:
    simulate("set filetype=ascii", TRAN, "write out.raw")
    file = tmp_path / "out.raw"
    file.write_bytes(file.read_bytes().rstrip()[:-3])  # 1.0e-05 becomes 1.0e-, or a number that is another
    with pytest.raises(RawFileError, match=r"deck 'rc': out\.raw: it is cut short: \d+ of \d+ points") as caught:
        read_raw(file, "rc")
    assert (caught.value.deck, caught.value.folder) == ("rc", tmp_path)


# ----------------------------------------------------------------------------------- independent small writer


@dataclass(frozen=True)
class Wanted:
    """A plot to write: columns of one length."""

    name: str
    rows: Sequence[Sequence[complex]]
    is_complex: bool
    binary: bool
    extra: Sequence[str] = ()
    end: str = "\n"

    def head(self) -> bytes:
        columns = len(self.rows[0])
        lines = ["Title: case: 1", *self.extra[:1], f"Plotname: {self.name}"]
        lines += [f"Flags: {'complex' if self.is_complex else 'real'}", f"No. Variables: {columns}"]
        lines += [f"No. Points: {len(self.rows):<8d}", *self.extra[1:], "Variables:"]
        lines += [f"\t{k}\tV(N{k})\tvoltage" + " grid=3" * (k == 0) for k in range(columns)]
        return "".join(line + self.end for line in [*lines, "Binary:" if self.binary else "Values:"]).encode()

    def body(self) -> bytes:
        if self.binary:
            numbers = [
                x for row in self.rows for z in row for x in ((z.real, z.imag) if self.is_complex else (z.real,))
            ]
            return struct.pack(f"<{len(numbers)}d", *numbers)
        points = []
        for k, row in enumerate(self.rows):
            words = [f"{z.real!r},{z.imag!r}" if self.is_complex else repr(z.real) for z in row]
            points.append(f" {k}" + "".join(f"\t{word}{self.end}" for word in words))
        return self.end.join(points).encode()

    def bytes(self) -> bytes:
        return self.head() + self.body() + (b"" if self.binary else self.end.encode())

    def array(self) -> NDArray[np.complex128]:
        return np.array(self.rows, dtype=np.complex128)


NUMBERS = st.floats(allow_nan=False)  # infinite, subnormal and -0.0 included
EXTRA = ("Option: reltol = 1e-3", "Command: version 39", "Date: Thu Jan  1 00:00:00  1970")


@st.composite
def wanted(draw: st.DrawFn, points: int = 5) -> Wanted:
    is_complex, binary = draw(st.booleans()), draw(st.booleans())
    number = st.builds(complex, NUMBERS, NUMBERS) if is_complex else st.builds(complex, NUMBERS)
    columns = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(number, min_size=columns, max_size=columns), min_size=1, max_size=points))
    extra = draw(st.permutations(EXTRA))[: draw(st.integers(0, 3))]
    end = "\n" if binary else draw(st.sampled_from(["\n", "\r\n"]))
    return Wanted(draw(st.sampled_from(["Transient Analysis", "AC Analysis"])), rows, is_complex, binary, extra, end)


def assert_same(found: Plot, asked: Wanted) -> None:
    assert (found.title, found.name) == ("case: 1", asked.name)
    assert found.variables == tuple(f"v(n{k})" for k in range(len(asked.rows[0])))
    assert found.kinds == ("voltage",) * len(asked.rows[0])
    assert found.values.dtype == (np.complex128 if asked.is_complex else np.float64)
    assert not found.values.flags.writeable
    # bytes, so that -0.0 is not 0.0
    assert found.values.astype(np.complex128).real.tobytes() == asked.array().real.tobytes()
    assert not asked.is_complex or found.values.imag.tobytes() == asked.array().imag.tobytes()


@settings(max_examples=150, deadline=None)
@given(st.lists(wanted(), min_size=1, max_size=4))
def test_several_plots_round_trip_exactly(plots: list[Wanted]) -> None:
    found = parse_raw(b"".join(plot.bytes() for plot in plots), "deck", None)
    assert len(found) == len(plots)
    for one, asked in zip(found, plots, strict=True):
        assert_same(one, asked)


@settings(max_examples=150, deadline=None)
@given(st.lists(wanted(), max_size=1), wanted(), st.data())
def test_file_cut_at_any_byte_of_its_values_is_refused(before: list[Wanted], last: Wanted, data: st.DataObject) -> None:
    head, body = b"".join(plot.bytes() for plot in before) + last.head(), last.body()
    if not last.binary:
        body = body.rstrip()  # the last byte kept at most is the last of a number without its end of line
    keep = data.draw(st.integers(0, len(body) - 1 if last.binary else len(body)))
    with pytest.raises(RawFileError, match=r"it is cut short: \d+ .*values"):
        parse_raw(head + body[:keep], "deck", None)


@settings(max_examples=100, deadline=None)
@given(wanted(), st.data())
def test_file_cut_in_its_header_is_refused(plot: Wanted, data: st.DataObject) -> None:
    head = plot.head()
    with pytest.raises(RawFileError, match=r"raw file: .+"):
        parse_raw(head[: data.draw(st.integers(0, len(head) - 1))], "deck", None)


@settings(max_examples=200, deadline=None)
@given(wanted(), st.data())
def test_damaged_byte_gives_a_plot_or_the_one_error(plot: Wanted, data: st.DataObject) -> None:
    content = bytearray(plot.bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_raw(bytes(content), "deck", None)
    except RawFileError:
        return
    assert all(one.values.shape[1] == len(one.variables) for one in found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(RawFileError, match="raw file: "):
        parse_raw(content, "deck", None)


# ---------------------------------------------------------------------------------------------- by hand

TEXT = Wanted("Transient Analysis", [[0.0, 1.5], [1.0, 2.5]], is_complex=False, binary=False).bytes()
BINARY = Wanted("Transient Analysis", [[0.0, 1.5], [1.0, 2.5]], is_complex=False, binary=True).bytes()
COMPLEX = Wanted("AC Analysis", [[1 + 0j, 2 - 1j]], is_complex=True, binary=False).bytes()
POINTS = b"No. Points: 2       "


def test_keys_of_the_header_in_any_case_and_order() -> None:
    content = (
        b"FLAGS: REAL padded\r\nno. points:   1  \r\nPLOTNAME: DC transfer characteristic\r\nNO. VARIABLES:\t2\r\n"
        b"Option: temp = 27\r\ncommand: a: b\r\nDimensions: 1\r\nDate: now\r\nTITLE: a: B\r\n"
        b"VARIABLES:\t0\tV-Sweep\tVoltage grid=3 min=0\r\n\t1\tI(Vx)\tcurrent dims=1,1\r\nVALUES:\r\n0 -1e-3\r\n\t-2.5\r\n"
    )
    (plot,) = parse_raw(content, "deck", None)
    assert (plot.title, plot.name, plot.flags) == ("a: B", "DC transfer characteristic", ("real", "padded"))
    assert (plot.variables, plot.kinds) == (("v-sweep", "i(vx)"), ("voltage", "current"))
    assert plot.values.tolist() == [[-1e-3, -2.5]]


def test_not_a_number_of_ngspice_is_read() -> None:
    (plot,) = parse_raw(TEXT.replace(b"1.5", b"-nan").replace(b"2.5", b"inf"), "deck", None)
    assert np.isnan(plot.values[0, 1])
    assert plot.values[1, 1] == np.inf


def test_binary_values_are_a_view_of_the_file() -> None:
    (plot,) = parse_raw(BINARY, "deck", None)
    assert np.shares_memory(plot.values, np.frombuffer(BINARY, np.uint8))


def test_unknown_variable_names_the_similar_ones() -> None:
    (plot,) = parse_raw(TEXT, "deck", None)
    assert plot["v(N1)"].tolist() == [1.5, 2.5]
    with pytest.raises(InputError, match=r"'Transient Analysis' has no variable 'v\(m1\)'\. Similar: v\(n1\)"):
        plot["v(m1)"]
    with pytest.raises(InputError, match=r"no variable 'qqqq'\. It has v\(n0\), v\(n1\)"):
        plot["qqqq"]


def test_missing_file_says_so_and_names_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RawFileError, match=r"no\.raw cannot be read: No such file.*Check the path") as caught:
        read_raw(tmp_path / "no.raw")
    assert caught.value.folder == tmp_path


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1, old
    return content.replace(old, new)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty: no plot in 0 bytes"),
        (b" \r\n\t\n", r"it is empty: no plot in 5 bytes"),
        (b"\x00\xff" * 99, r"is no line of a raw-file header"),
        (b"hello world\n", r"'hello world' is no line of a raw-file header"),
        (b"Title: x\n", r"its header ends after 9 bytes, before any value"),
        (BINARY[:-1], r"it is cut short: 31 of 32 bytes of values, 1 of 2 points"),
        (BINARY + b"\0" * 16, r"is no line of a raw-file header"),
        (replaced(BINARY, POINTS, b"No. Points: 1") + BINARY, r"Title: case: 1' is no line of a raw-file header"),
        (TEXT[:-3], r"it is cut short: 1 of 2 points of 2 values are whole"),
        (TEXT[:-15], r"it is cut short: "),
        (replaced(TEXT, b"1.5", b"x1.5"), r"point 0 of 2, variable v\(n1\): 'x1\.5' is no real number"),
        (replaced(TEXT, b"1.5", b"1_5"), r"'1_5' is no real number"),
        (replaced(TEXT, b"1.5", b"1.5,0"), r"'1\.5,0' is no real number"),
        (replaced(TEXT, b"1.5", b"1\xff5"), r"is no real number"),
        (replaced(TEXT, b"\t1.5\n", b""), r"it is cut short: 1 of 2 points of 2 values are whole"),
        (replaced(TEXT, b" 1\t", b" 2\t"), r"'2' stands where point 1 of 2 belongs"),
        (replaced(COMPLEX, b"2.0,-1.0", b"2.0"), r"'2\.0' is no complex number"),
        (replaced(COMPLEX, b"2.0,-1.0", b"2.0,-1.0,3"), r"'2\.0,-1\.0,3' is no complex number"),
        (replaced(COMPLEX, b"2.0,-1.0", b"2.0,"), r"'2\.0,' is no complex number"),
        (replaced(BINARY, POINTS, b"No. Points: 0       "), r"0 points: the simulation ended .* or was killed \(32 bytes"),
        (replaced(BINARY, POINTS, b"No. Points: -2"), r"'no\. points' is missing or holds '-2', a count is expected"),
        (replaced(BINARY, POINTS, b"No. Points: 2.0"), r"holds '2\.0', a count is expected"),
        (replaced(BINARY, POINTS + b"\n", b""), r"'no\. points' is missing"),
        (replaced(BINARY, b"No. Variables: 2\n", b""), r"'no\. variables' is missing"),
        (replaced(BINARY, POINTS, "No. Points: ２".encode()), r"a count is expected"),
        (replaced(BINARY, POINTS, b"No. Points: " + b"9" * 5000), r"holds '9{20}', a count is expected"),
        (replaced(BINARY, b"No. Variables: 2", b"No. Variables: 0"), r"is no line of a raw-file header"),
        (replaced(BINARY, b"No. Variables: 2", b"No. Variables: 3"), r"variable 2 of 3 is missing"),
        (replaced(BINARY, b"\t1\tV", b"\t7\tV"), r"variable 1 of 2 is missing"),
        (replaced(BINARY, b"Flags: real", b"Flags: imaginary"), r"lacks Plotname, Flags \(one of real and complex\)"),
        (replaced(BINARY, b"Flags: real", b"Flags: real complex"), r"lacks Plotname, Flags"),
        (replaced(BINARY, b"Plotname: Transient Analysis\n", b""), r"lacks Plotname, Flags"),
        (replaced(BINARY, b"grid=3", b"dims=a"), r"variable V\(N0\) has 'dims=a', dimensions like dims=2,3"),
        (replaced(BINARY, b"grid=3", b"dims=1"), r"variable v\(n0\) has 1 of 2 points"),
        (replaced(BINARY, b"grid=3", b"dims=2,2"), r"variable v\(n0\) has 4 of 2 points"),
    ],
)  # fmt: skip
def test_what_is_no_whole_raw_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(RawFileError, match=message):
        parse_raw(content, "deck", None)


@pytest.mark.parametrize("content", [TEXT, BINARY], ids=["ascii", "binary"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (POINTS, b"No. Points: 1000000000000", r"cut short: \d+ .*bytes of values, .*1000000000000 points"),
        (POINTS, b"No. Points: 999999999999999999", r"cut short: \d+ .*bytes of values, .*999999999999999999 points"),
        (
            b"No. Variables: 2",
            b"No. Variables: 1000000000000",
            r"claims 1000000000000 variables, more than the \d+ bytes",
        ),
    ],
)
def test_absurd_size_is_refused_without_memory(content: bytes, old: bytes, new: bytes, message: str) -> None:
    hostile = replaced(content, old, new)
    tracemalloc.start()
    try:
        with pytest.raises(RawFileError, match=message):
            parse_raw(hostile, "deck", None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_error_names_deck_file_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        RawFileError, match=r"^deck 'd': a\.raw: it is cut short: .* Check the disk space, .*Kept folder"
    ):
        parse_raw(BINARY[:-1], "d", tmp_path / "a.raw")
    with pytest.raises(RawFileError, match=r"^deck 'a\.raw': a\.raw: it is cut short"):
        parse_raw(BINARY[:-1], "", tmp_path / "a.raw")
