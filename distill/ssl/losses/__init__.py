"""What pre-training minimises, and how often its answers are right."""
