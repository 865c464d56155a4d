"""Figures of a trained network: training curve, waveforms, hidden activity, conductance maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray

from memprop.circuit.network import Network
from memprop.circuit.spread import Drawn
from memprop.files import ensure_folder

TWIN, SPICE = "#d95f02", "#1b6ca8"
Floats = NDArray[np.float64] | NDArray[np.float32]


def _save(figure: Figure, path: Path) -> Path:
    ensure_folder(path.parent)
    # Without the software tag the same picture is the same file.
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    return path


def _figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 3.6)) -> tuple[Figure, NDArray[Any]]:
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def training_curve(
    path: Path, loss: Sequence[float], validation: Sequence[float], best: int, held_out: Sequence[float] = ()
) -> Path:
    """Draw loss and validation accuracy over the epochs, with the epoch whose weights were taken; ``best`` counts from 0.

    ``held_out`` is the loss on the images held out, where that chose the epoch.
    """
    figure, axes = _figure(1, 2)
    epochs, (left, right) = np.arange(1, len(loss) + 1), axes[0]
    left.plot(epochs, loss, "o-", color=TWIN, markersize=3, label="training")
    left.set(xlabel="epoch", ylabel="loss (nats)", title="Loss", yscale=_scale(loss))
    if held_out:
        left.plot(epochs, held_out, "o-", color=SPICE, markersize=3, label="held out")
        left.legend(frameon=False)
    errors = 100 * (1 - np.array(validation))
    right.plot(epochs, errors, "o-", color=SPICE, markersize=3)
    right.plot(epochs[best], errors[best], "o", color=SPICE, markersize=9, fillstyle="none")
    right.set(
        xlabel="epoch",
        ylabel="validation error (%)",
        title=f"epoch {best + 1} taken: {100 * validation[best]:.2f} % right",
        yscale=_scale([1 - share for share in validation]),
    )
    for axis in axes.flat:
        axis.grid(visible=True, which="both", alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.get_yscale() == "log":
            # Labels at 1, 2 and 5 of each decade: nine would run into each other.
            axis.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _save(figure, path)


def _scale(values: Sequence[float]) -> str:
    """Return the scale that shows values of many sizes; nothing at all, as on few images, has no logarithm."""
    return "log" if max(values) > 0 else "linear"


def waveforms(path: Path, time: Floats, twin: Floats, spice: Floats, classes: int, answer: int, title: str) -> Path:
    """Draw the output membranes and the six liveliest hidden membranes, twin over SPICE; the ``answer`` stands out.

    ``time`` in s, ``twin`` and ``spice`` membranes in V, ``[T + 1, neurons]``, outputs last.
    """
    figure, axes = _figure(2, 1, (7.5, 6.2))
    hidden = spice[:, :-classes]
    lively = np.argsort(np.ptp(hidden, axis=0))[::-1][:6] if hidden.shape[1] else np.array([], dtype=int)
    panels = (
        (lively, "six hidden membranes (mV)"),
        (np.arange(spice.shape[1] - classes, spice.shape[1]), "output membranes (mV)"),
    )
    for axis, (columns, label) in zip(axes[:, 0], panels, strict=True):
        axis.plot(1e6 * time, 1e3 * spice[:, columns], color=SPICE, linewidth=2.6, alpha=0.45)
        axis.plot(1e6 * time, 1e3 * twin[:, columns], color=TWIN, linewidth=0.9, linestyle="--")
        axis.set(ylabel=label, xlabel="time (us)")
        axis.grid(visible=True, alpha=0.25)
    winner = spice.shape[1] - classes + answer
    axes[1, 0].plot(1e6 * time, 1e3 * spice[:, winner], color="black", linewidth=0.8, label=f"answer,\noutput {answer}")
    axes[1, 0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes[0, 0].set_title(title)
    axes[0, 0].plot([], [], color=SPICE, linewidth=2.6, alpha=0.45, label="SPICE")
    axes[0, 0].plot([], [], color=TWIN, linewidth=0.9, linestyle="--", label="twin")
    axes[0, 0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _save(figure, path)


def hidden_activity(path: Path, time: Floats, membranes: Floats, rest: Floats, title: str) -> Path:
    """Draw the hidden membranes above rest as a heat map, sorted by the time of their peak."""
    above = 1e3 * (membranes - rest)
    order = np.argsort(above.argmax(0), kind="stable")
    limit = float(np.percentile(np.abs(above), 99.5)) or 1.0
    figure, axes = _figure(size=(7.0, 4.2))
    image = axes[0, 0].imshow(
        above[:, order].T, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
        extent=(0, 1e6 * float(time[-1]), 0, above.shape[1]),
    )  # fmt: skip
    axes[0, 0].set(xlabel="time (us)", ylabel="hidden neuron, by time of peak", title=title)
    figure.colorbar(image, ax=axes[0, 0], label="membrane above rest (mV)")
    return _save(figure, path)


def conductance_maps(path: Path, network: Network, image_shape: tuple[int, int] | None = None) -> Path:
    """Draw every crossbar as ``g_plus - g_minus``; the first one also as one picture per column when rows are pixels."""
    count = len(network.projections)
    figure, axes = _figure(count, 2, (9.0, 3.3 * count))
    for k, projection in enumerate(network.projections):
        weight = 1e6 * (projection.g_plus - projection.g_minus)
        limit = float(np.percentile(np.abs(weight), 99.8)) or 1.0
        left, right = axes[k]
        image = left.imshow(weight.T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        left.set(
            xlabel=f"row of {projection.pre}",
            ylabel=f"column of {projection.post}",
            title=f"{projection.name}: g+ - g-",
        )
        figure.colorbar(image, ax=left, label="uS")
        if k == 0 and image_shape is not None:
            right.imshow(_fields(weight, image_shape), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            right.set(title="the same, one picture per column", xticks=[], yticks=[])
        else:
            for g, label, color in ((projection.g_plus, "g+", TWIN), (projection.g_minus, "g-", SPICE)):
                right.hist(1e6 * g.ravel(), bins=60, histtype="step", label=label, color=color)
            right.set(xlabel="conductance (uS)", ylabel="cells", title="range in use", yscale="log")
            right.legend(frameon=False)
    return _save(figure, path)


def _fields(weight: Floats, shape: tuple[int, int], most: int = 36) -> Floats:
    """Return the first columns as pictures in a square, with a white line between them."""
    shown = weight[:, :most]
    side = int(np.ceil(np.sqrt(shown.shape[1])))
    height, width = shape[0] + 1, shape[1] + 1
    sheet = np.full((side * height, side * width), np.nan)
    for k in range(shown.shape[1]):
        top, left = (k // side) * height, (k % side) * width
        sheet[top : top + shape[0], left : left + shape[1]] = shown[:, k].reshape(shape)
    return sheet


def spread_histograms(path: Path, drawn: Sequence[Drawn], title: str) -> Path:
    """Draw one histogram per quantity, relative to the design where it has a value, and a line where the design is."""
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, axes = _figure(rows, columns, (2.6 * columns, 0.4 + 2.1 * rows))
    for axis, part in zip(axes.flat, drawn, strict=False):
        axis.hist(part.shown, bins=min(60, max(8, int(np.sqrt(part.shown.size)))), color=SPICE)
        axis.axvline(1.0 if part.relative else 0.0, color=TWIN, linewidth=1.0)
        axis.set_title(f"{part.name}, {part.shown.size}", fontsize=9)
        axis.set_xlabel("relative to the design" if part.relative else part.unit, fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def mismatch_curve(path: Path, sigmas: Sequence[float], accuracy: Mapping[str, Sequence[float]], images: int) -> Path:
    """Draw accuracies in SPICE over the relative spread of the neurons: design, chips as they come, chips tuned in the loop.

    The curves begin with the design, which is the chip without spread.
    """
    figure, axes = _figure()
    axis = axes[0, 0]
    order = np.argsort(sigmas)
    looks = {
        "ideal": ("design", "0.5", "--"),
        "plain": ("chip as it comes", SPICE, "o-"),
        "tuned": ("tuned in the loop", TWIN, "o-"),
        "calibrated": ("learned on the calibrated twin", "#1b9e77", "o-"),
    }
    for name, values in accuracy.items():
        words, color, style = looks[name]
        levels = np.concatenate([accuracy["ideal"][:1], np.asarray(values)[order]])
        axis.plot(
            100 * np.concatenate([[0.0], np.asarray(sigmas)[order]]), 100 * levels, style, color=color, label=words
        )
    axis.set(xlabel="spread of the neurons' parameters (%)", ylabel=f"accuracy in SPICE, {images} test images (%)")
    axis.legend(frameon=False)
    return _save(figure, path)


def noise_curve(path: Path, ratios: Sequence[float], cosines: Sequence[Sequence[float]]) -> Path:
    """Draw how far gradients ``[crossbar][ratio]`` turn when nodes are read with noise of 1/ratio of their movement."""
    figure, axes = _figure(size=(5.0, 3.6))
    axis = axes[0, 0]
    for k, row in enumerate(cosines):
        axis.plot(ratios, 1.0 - np.array(row), "o-", markersize=4, label=f"crossbar {k}")
    axis.set(
        xlabel="movement of the nodes / noise of the read-out", ylabel="1 - cosine", xscale="log", yscale="log",
        title="Gradient under read-out noise",
    )  # fmt: skip
    axis.grid(visible=True, which="both", alpha=0.25)
    axis.legend(frameon=False)
    return _save(figure, path)
