"""Keras layers as primitive operators: what one is, and what each type of layer becomes."""
