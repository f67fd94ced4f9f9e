"""Which speech can be made again from a layer's features."""
