"""The contract of a teacher, and its frames, layers, features and cache."""
