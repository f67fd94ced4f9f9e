"""What a model costs: time per frame, start, memory."""
