"""Quantizing one layer after the other against the float network's output on images."""
