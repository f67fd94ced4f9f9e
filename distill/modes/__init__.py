"""How an enhancer learns from a teacher: one file for each mode, and the choice."""
