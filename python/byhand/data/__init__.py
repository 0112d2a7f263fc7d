"""Corpora, and the windows and batches a language model learns from."""

from byhand.data.corpus import corpus_names, load_corpus
from byhand.data.dataset import WindowDataset, split, windows_side_by_side
from byhand.data.sampler import RandomSampler

__all__ = [
    "RandomSampler",
    "WindowDataset",
    "corpus_names",
    "load_corpus",
    "split",
    "windows_side_by_side",
]
