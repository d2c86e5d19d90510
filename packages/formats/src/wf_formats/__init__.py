"""Model files, without PyTorch: readers and writers, block codecs, families, tokenizers, atomic writes."""
