"""What several attacks share: networks, their training, marks and pictures."""
