"""What came out of a quantization, layer by layer: rows, advice, and the page that shows them."""
