"""What runs on the device: enhancers, where models are found, files and folders."""
