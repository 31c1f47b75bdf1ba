"""Scores of how well captions fit their images and each other."""
