"""Language models as text encoders, their tokenizers, and text compared by words."""
