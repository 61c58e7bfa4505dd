"""Strings and tables to token ids."""
