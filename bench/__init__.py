"""Measurements, as ratios and shares beside a peer in one run; never part of the tests."""
