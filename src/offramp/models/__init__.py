"""Configurations, the pretrained base class, and one file a family."""
