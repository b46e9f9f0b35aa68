"""What a checkpoint's headers say, with no tensor data read."""
