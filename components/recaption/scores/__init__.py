"""How well captions fit their images and each other."""
