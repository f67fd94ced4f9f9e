"""The network as plain C, compiled here and called without Python in between."""
