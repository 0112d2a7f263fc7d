"""Corpora and arrays, and the batches a model learns from."""

from byhand.data.arrays import ArrayDataset, stratified_folds
from byhand.data.corpus import corpus_names, load_corpus
from byhand.data.dataset import Batch, Dataset
from byhand.data.sampler import EpochSampler, RandomSampler, Sampler
from byhand.data.windows import TextData, WindowDataset, consecutive_windows, split

__all__ = [
    "ArrayDataset",
    "Batch",
    "Dataset",
    "EpochSampler",
    "RandomSampler",
    "Sampler",
    "TextData",
    "WindowDataset",
    "consecutive_windows",
    "corpus_names",
    "load_corpus",
    "split",
    "stratified_folds",
]
