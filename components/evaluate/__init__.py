"""Measures every arm on the test split and writes the report."""
