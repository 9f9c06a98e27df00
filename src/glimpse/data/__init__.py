"""Crops, datasets, protocols and batches."""

from glimpse.data.dataset import SPLITS, Dataset, Split
from glimpse.data.folders import open_crops, open_folder
from glimpse.data.images import ReadImages, decode, read_all, read_image
from glimpse.data.layouts import KINDS, open_dataset
from glimpse.data.market1501 import open_market1501
from glimpse.data.partial_reid import open_partial_reid
from glimpse.data.protocol import Protocol, ProtocolReport, Relevance, single_shot
from glimpse.data.sampler import PKSampler
from glimpse.data.samples import DISTRACTOR, JUNK, Sample, Store
from glimpse.data.splits import holdout
from glimpse.data.stores import FolderStore, ZipStore, open_store
from glimpse.data.table import open_table

__all__ = [
    "DISTRACTOR",
    "JUNK",
    "KINDS",
    "SPLITS",
    "Dataset",
    "FolderStore",
    "PKSampler",
    "Protocol",
    "ProtocolReport",
    "ReadImages",
    "Relevance",
    "Sample",
    "Split",
    "Store",
    "ZipStore",
    "decode",
    "holdout",
    "open_crops",
    "open_dataset",
    "open_folder",
    "open_market1501",
    "open_partial_reid",
    "open_store",
    "open_table",
    "read_all",
    "read_image",
    "single_shot",
]
