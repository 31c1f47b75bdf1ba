"""Estimate rows, bytes, hours and memory of a run; one file for each stage."""
