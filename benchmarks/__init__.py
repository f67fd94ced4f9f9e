"""Everything that measures: quality, latency, statistics and reports."""
