"""A poisoned dataset, a defense run on it, and the judgement."""
