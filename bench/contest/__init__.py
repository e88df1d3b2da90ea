"""What `./run bench engine` is made of: texts and models of known tokens, one client for all, the works, the table."""
