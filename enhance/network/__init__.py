"""The network, from waveform to waveform, and the checkpoints that keep it."""
