"""What pre-training hears: files, and the crops that are cut from them."""
