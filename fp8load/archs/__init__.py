"""Model families: which tensors exist, which are fused, how they are split. One file of constants for each."""
