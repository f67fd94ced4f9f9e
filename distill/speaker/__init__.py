"""Training of speaker encoders: supervised (AAM-softmax) or without labels (DINO), and EER."""
