"""Models, losses and metrics on tensors. Imports no settings, storage or sources, and chooses no path."""
