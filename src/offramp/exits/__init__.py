"""Early exits on any LayerStack: ramps, the criteria that ask them, and their losses."""
