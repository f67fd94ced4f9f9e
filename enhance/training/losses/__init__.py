"""Losses of enhancement, on the waveform and as an ear hears it."""
