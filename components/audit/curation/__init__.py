"""Drop images by model scores and embeddings."""
