"""Models of `tf_keras` (Keras 2): read from files, and made into the equal Keras 3 model."""
