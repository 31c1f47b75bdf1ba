"""Vision towers, and the preparation of pictures for them."""
