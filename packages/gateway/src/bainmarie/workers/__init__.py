"""Worker processes: how one starts, lives and ends, and who may use it."""
