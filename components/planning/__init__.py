"""Estimate what a run takes: rows, bytes, hours and memory, one file a stage."""
