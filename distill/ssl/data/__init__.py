"""What pre-training hears, and the units it learns to tell."""
