"""Where rows come from: url lists, folders, text tables and procedural scenes, behind `rows.read_rows`."""
