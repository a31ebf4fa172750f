"""Where rows land: load packages, SQL beside them, DuckDB's working file and its copy."""
