"""The side of Keras: reading a model, gathering statistics, simulating the result."""
