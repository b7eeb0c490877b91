"""Samples from data sets in their own layouts::

    found = avflow.data.read("worldsense_qa.json", "worldsense", media="/data/worldsense")
    samples = avflow.data.choose(found.samples, tasks=["Audio Counting"], limit=100, shuffle_seed=0)

Layouts of published data sets go by their names (`MAPPINGS`); a `DataMapping` describes one of your own.
"""

from .dataset import Dataset, choose, read
from .layouts import MAPPINGS, mapping_of, register
from .mapping import DataMapping
from .rows import is_hub

__all__ = ["MAPPINGS", "DataMapping", "Dataset", "choose", "is_hub", "mapping_of", "read", "register"]
