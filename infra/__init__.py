"""Programs around the pipeline."""
