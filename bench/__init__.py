"""Measurements as ratios and shares, made by hand and never part of the tests' verdict."""
