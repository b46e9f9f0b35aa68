"""Other loaders of safetensors files: one file each; `peer_list` has them in order."""
