"""From a model's name to the directory where its files are."""
