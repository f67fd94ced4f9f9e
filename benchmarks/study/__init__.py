"""Studies: many runs from one file, trained, measured and compared."""
