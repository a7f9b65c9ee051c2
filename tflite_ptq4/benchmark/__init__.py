"""How fast `.tflite` files run and what they take, measured against one another."""
