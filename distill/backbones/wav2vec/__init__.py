"""wav2vec and vq-wav2vec: networks, quantisers, teachers."""
