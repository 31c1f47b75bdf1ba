"""Find duplicate and nearly equal images."""
