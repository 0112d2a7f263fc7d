"""The files in which tokenizers are kept, each converted to and from the description that Hugging
Face's tokenizer.json has: a dict with "model", "normalizer", "pre_tokenizer" and so on.
"""
