"""Where bytes live: layout, atomic writes, manifests, shards, side tables, checkpoints; knows no model."""
