"""Drop images by what models think of them."""
