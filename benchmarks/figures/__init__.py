"""Rows of results, and the statistics, tables and plots made of them."""
