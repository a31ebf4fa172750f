"""Where rows land: load packages, SQL, DuckDB's working file and its snapshot."""
