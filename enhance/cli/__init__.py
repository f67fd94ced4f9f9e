"""The front door: one module for each group of commands, heavy imports inside."""
