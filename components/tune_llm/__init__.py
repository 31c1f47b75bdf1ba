"""Caption-contrastive tuning of the language model."""
