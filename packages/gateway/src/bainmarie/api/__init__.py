"""The HTTP surface: one file for each dialect, each with `routes(parts)`."""
