"""Gathering calibration statistics from runs of a Keras model, or from arrays of images."""
