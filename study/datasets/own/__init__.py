"""A dataset as a person has it: read from any of its formats, each sample with a name of its own, and written back."""
