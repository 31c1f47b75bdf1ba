"""The stage download: rows of every source become shards, ledgers and a table of texts."""
