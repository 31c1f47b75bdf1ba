"""Language models as text encoders, tokenizers, and word-based text similarity."""
