"""From headers to a proved plan: which bytes go where. No torch, no tensor data."""
