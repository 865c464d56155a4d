"""Data sets, checked against published checksums, and encoders of images into row voltages."""

from memprop.data.encode import AlphaEncoder
from memprop.data.sets import DATASETS, Images, Split, load

__all__ = ["DATASETS", "AlphaEncoder", "Images", "Split", "load"]
