"""What representations hold: one question per file."""
