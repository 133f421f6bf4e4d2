"""The table's side: read it, tell what its columns are, encode them as numbers."""
