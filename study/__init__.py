"""The study: datasets, attacks, scenarios, search, judgement. The only package that knows ground truth."""
