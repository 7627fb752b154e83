"""A study on disk as tables, and what can be computed from them."""
