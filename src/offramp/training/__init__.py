"""The training loop, its metrics, and what a trained model is measured by."""
