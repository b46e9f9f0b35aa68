"""The torch border: typed parameters, scaled linear layers, dequantization, and the backends that run them."""
