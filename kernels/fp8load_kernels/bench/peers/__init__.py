"""One file for each peer: the products that others would run for the same layer, bf16 in and out."""
