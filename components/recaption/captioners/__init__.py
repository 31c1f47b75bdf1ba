"""Captioners: models and existing columns behind one interface."""
