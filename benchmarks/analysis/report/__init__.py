"""One page over all analyses: what was run, figures, plots, and what they say of the seeds' claims."""
