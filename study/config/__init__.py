"""What a study is told, and what it searches for."""
