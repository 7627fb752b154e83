"""What a study leaves on disk: its folder, manifest, trials and results."""
