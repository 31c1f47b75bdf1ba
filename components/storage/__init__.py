"""Files on disk and in buckets: layout, atomic writes, manifests, shards, side tables, checkpoints."""
