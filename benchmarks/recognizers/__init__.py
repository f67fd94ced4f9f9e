"""Recognisers: what of the words is left in an estimate or a reconstruction."""
