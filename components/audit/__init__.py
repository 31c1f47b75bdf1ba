"""The stage audit: report on the data, drop rows, and decide whether training may start."""
