"""audit: what the data is, which rows go on, and whether training may start."""
