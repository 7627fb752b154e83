"""Looks for poison in a person's own dataset: runs studies of it, and makes a verdict, a page and a clean set."""
