"""`python -m tflite_ptq4` is the command `tflite-ptq4`."""

from tflite_ptq4.cli import entry_point

if __name__ == "__main__":
    entry_point()
