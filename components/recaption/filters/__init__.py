"""Filters that reject texts that are no captions."""
