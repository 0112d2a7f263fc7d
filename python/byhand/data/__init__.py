"""Corpora and arrays, and the batches a model learns from."""

from byhand.data.arrays import ArrayDataset, stratified_folds
from byhand.data.corpus import TextSource, absolute_name, corpus_names, load_corpus, open_corpus
from byhand.data.dataset import Batch, Dataset
from byhand.data.sampler import EpochSampler, RandomSampler, Sampler
from byhand.data.splits import Splits
from byhand.data.windows import TextData, WindowDataset, consecutive_windows, split

__all__ = [
    "ArrayDataset",
    "Batch",
    "Dataset",
    "EpochSampler",
    "RandomSampler",
    "Sampler",
    "Splits",
    "TextData",
    "TextSource",
    "WindowDataset",
    "absolute_name",
    "consecutive_windows",
    "corpus_names",
    "load_corpus",
    "open_corpus",
    "split",
    "stratified_folds",
]
