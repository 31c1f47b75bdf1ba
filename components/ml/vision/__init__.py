"""Vision towers, and the pictures they see."""
