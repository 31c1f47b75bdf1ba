"""Procedural scenes: drawn facts, their picture, their captions in two languages."""
