"""PIPD: progressive isolation of poisoned data, and what cleans the model afterwards."""
