"""Benchmarks: ratios and shares, measured beside a peer in one run; never part of the tests."""
