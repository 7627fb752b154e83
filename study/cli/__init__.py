"""What every command shares: options, exit codes, and what a person sees in a terminal."""
