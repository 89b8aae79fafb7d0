"""Data sets by name or by path: `load` finds the loader, the loaders only read their format."""

from .dataset import Dataset
from .loading import DatasetInfo, info, load

__all__ = ["Dataset", "DatasetInfo", "info", "load"]
