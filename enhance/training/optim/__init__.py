"""What turns a gradient into weights: Muon, rates, averages."""
