"""Tensors and models: knows no settings, no storage, no sources; chooses no path."""
