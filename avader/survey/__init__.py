"""Where cutouts come from: files, tables, a mock survey."""
