"""One page over all analyses: what was run, figures, plots, and the claims of the seeds."""
