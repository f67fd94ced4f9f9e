"""What is heard: manifests, decoded clips, mixing, the built-in corpus, evaluation sets."""
