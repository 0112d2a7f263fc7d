"""Corpora and arrays, and the batches a model learns from."""

from byhand.data.arrays import ArrayDataset, stratified_folds
from byhand.data.corpus import TextSource, absolute_name, corpus_names, load_corpus, open_corpus
from byhand.data.dataset import Batch, Dataset
from byhand.data.encoded import QuestionDataset, classified, labels_in, tagged
from byhand.data.examples import (
    Examples,
    checked_examples,
    is_examples,
    read_examples,
    texts_of,
)
from byhand.data.masking import MaskedDataset
from byhand.data.packing import PackedDataset, pack
from byhand.data.pairs import SentencePairs, split_documents
from byhand.data.sampler import EpochSampler, RandomSampler, Sampler
from byhand.data.sequences import LengthSampler, SequenceDataset
from byhand.data.splits import Splits
from byhand.data.windows import FramedWindows, TextData, WindowDataset, consecutive_windows, split

__all__ = [
    "ArrayDataset",
    "Batch",
    "Dataset",
    "EpochSampler",
    "Examples",
    "FramedWindows",
    "LengthSampler",
    "MaskedDataset",
    "PackedDataset",
    "QuestionDataset",
    "RandomSampler",
    "Sampler",
    "SentencePairs",
    "SequenceDataset",
    "Splits",
    "TextData",
    "TextSource",
    "WindowDataset",
    "absolute_name",
    "checked_examples",
    "classified",
    "consecutive_windows",
    "corpus_names",
    "is_examples",
    "labels_in",
    "load_corpus",
    "open_corpus",
    "pack",
    "read_examples",
    "split",
    "split_documents",
    "stratified_folds",
    "tagged",
    "texts_of",
]
