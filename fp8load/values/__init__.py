"""Values of weights with numpy alone: bytes in bands of rows, decoded and dequantized as `runtime` does with torch."""
