"""Reports and model cards: pages from records."""
