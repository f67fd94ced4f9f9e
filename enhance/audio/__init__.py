"""Audio files of any length: reading, writing, resampling, block by block."""
