"""What a quantization did, for TensorBoard: histograms, clips drawn in, and bits per channel."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np

from tflite_ptq4.errors import OutputError
from tflite_ptq4.pictures import bits_picture, clip_picture, histogram_bars
from tflite_ptq4.stats.calibration_statistics import CalibrationStatistics

if TYPE_CHECKING:
    from PIL.Image import Image

    from tflite_ptq4.pipeline import QuantizedModel
    from tflite_ptq4.stats.tensor_statistics import TensorStatistics


def write_summaries(
    quantized: QuantizedModel,
    statistics: CalibrationStatistics,
    log_dir: str | os.PathLike[str],
    step: int = 0,
) -> None:
    """Write event files that TensorBoard shows; it need not be installed for that.

    For each quantized activation: the histogram `activations/<tensor>`, the picture of it with the
    clip drawn in, `clip/<tensor>`, and the mean of its bits, `bits/activations/<tensor>`. For each
    layer with weights: `bits/weights/<layer>`. Bits that differ between channels have a picture,
    `bits_per_channel/<layer or tensor>`.

    Args:
        quantized: the model.
        statistics: that it was quantized by.
        log_dir: the folder of the events; it is made where it is missing.
        step: where on TensorBoard's axis of steps, e.g. the epoch.

    Raises:
        OutputError: the folder is not writable.
    """
    import tensorflow as tf

    plan = quantized.plan
    try:
        writer = tf.summary.create_file_writer(os.fspath(log_dir))
    except (OSError, tf.errors.OpError) as error:
        raise OutputError(
            f"Summaries must be written to a writable folder. Received: {os.fspath(log_dir)!r} "
            f"({error}). Name another folder."
        ) from error
    with writer.as_default(step=step), tf.summary.record_if(True):
        for name, tensor in plan.tensors.items():
            if tensor.source != name:
                continue
            _scalar(f"bits/activations/{name}", tensor.bits.mean())
            if name in statistics:
                _histogram(f"activations/{name}", statistics[name])
                _picture(f"clip/{name}", clip_picture(statistics[name], tensor))
            if tensor.per_channel:
                _picture(f"bits_per_channel/{name}", bits_picture(name, tensor.bits))
        for layer in plan.layers:
            if layer.weight_bits is not None:
                _scalar(f"bits/weights/{layer.name}", layer.weight_bits.mean())
                _picture(
                    f"bits_per_channel/{layer.name}/weights",
                    bits_picture(layer.name, layer.weight_bits),
                )
    writer.close()


# The plugins' formats, so that TensorBoard need not be installed to write for it.


def _scalar(tag: str, value: float) -> None:
    _write("scalars", tag, np.float32(value))


def _histogram(tag: str, statistics: TensorStatistics) -> None:
    edges, counts = histogram_bars(statistics)
    _write("histograms", tag, np.stack([edges[:-1], edges[1:], counts], axis=1))


def _picture(tag: str, image: Image) -> None:
    file = io.BytesIO()
    image.save(file, format="PNG")
    width, height = (str(size).encode() for size in image.size)
    _write("images", tag, np.array([width, height, file.getvalue()], object))


def _write(plugin: str, tag: str, value: np.generic | np.ndarray) -> None:
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    )
    tf.summary.write(tag, value, metadata=metadata)
