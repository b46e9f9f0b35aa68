"""Independent reference implementations: nothing in here imports fp8load."""
