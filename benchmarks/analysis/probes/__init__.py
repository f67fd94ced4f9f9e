"""What probes are asked, and how they answer."""
