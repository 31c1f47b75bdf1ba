"""Stage 2 of LLM2CLIP: one vision tower with its text side per arm."""
