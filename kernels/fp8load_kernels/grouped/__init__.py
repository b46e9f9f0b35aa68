"""One file for each backend of stacks of experts."""
