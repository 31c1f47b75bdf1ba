"""Embeddings of all captions, computed once."""
