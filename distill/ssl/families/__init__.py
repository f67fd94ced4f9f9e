"""What can be pre-trained: a file for each family, its configuration, and the choice among them."""
