"""Answers: what finished studies say about hyperparameters, attacks and rates. Reads studies, runs nothing."""
