"""What a model must not do to speech: cases, signals, bounds, tables."""
