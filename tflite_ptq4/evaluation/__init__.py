"""Models of any kind run on images, and held against labels and against one another."""
