"""Read rows from url lists, folders, annotation files, shards, text tables and scenes: `rows.read_rows`."""
