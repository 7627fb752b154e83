"""From a configuration to work: what is checked, built and run, before anything starts."""
