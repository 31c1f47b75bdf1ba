"""Contrastive losses and their gradients in chunks."""
