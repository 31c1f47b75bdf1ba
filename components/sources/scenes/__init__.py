"""Procedural scenes: random facts, their image, and their captions in English and German."""
