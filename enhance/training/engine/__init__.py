"""One engine for all that learns: steps, processes, state, history."""
