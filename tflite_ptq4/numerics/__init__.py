"""Pure functions on numpy arrays: grids, clipping, bit allocation, bias correction."""
