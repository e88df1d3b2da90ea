"""Tools: what one is, a set of them, and the check of a call's arguments. `builtin` holds those that come along."""
