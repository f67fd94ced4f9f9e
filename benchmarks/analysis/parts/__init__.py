"""What analyses share: clips heard and mixed, labels, linear probes, records."""
