"""Params (params.yaml, may change a result) and Environment (LLM2CLIP_*, may not change a result)."""
