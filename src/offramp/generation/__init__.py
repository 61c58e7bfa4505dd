"""Text from models that write it."""
