"""Speech through real codecs, and a spoofing task made of it."""
