"""The report as one HTML page that needs nothing else: styles, script and plots are in it."""

from tflite_ptq4.report.page.rendering import render_page

__all__ = ["render_page"]
