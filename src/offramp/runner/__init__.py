"""Encoded rows in, results out: breadth-first windows of packed rows that leave when they may."""
