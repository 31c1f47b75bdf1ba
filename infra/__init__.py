"""Helper programs outside the pipeline."""
