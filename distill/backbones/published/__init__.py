"""Teachers from the checkpoint files of their authors."""
