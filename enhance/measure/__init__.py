"""Measures of one clip and of one frame: quality and time."""
