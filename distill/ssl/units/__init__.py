"""Units that are predicted: k-means of MFCC or of hidden states."""
