"""The weights of a layer: in the layouts of the numerics, quantized, and corrected."""
