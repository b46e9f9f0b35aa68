"""How fast a checkpoint is loaded here: limits of the machine, other loaders, and the clock. Nothing here prints."""
