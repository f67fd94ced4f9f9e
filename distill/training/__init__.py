"""What the trainings of this package share."""
