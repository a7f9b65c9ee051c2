"""The images of an epoch of `fit`, kept as they pass on their way to the train function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import keras
import numpy as np
import tensorflow as tf


class EpochImages:
    """Keeps what the model's inputs are in each batch, up to a number of bytes.

    The train function gets the same batches in the same order, and is not compiled anew: it reads
    them from an iterator of the same element types.

    Args:
        most_bytes: after the batch that reaches it, batches are no longer kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._dataset: tf.data.Dataset | None = None
        self.forget()

    def forget(self) -> None:
        """Keep nothing of what was kept."""
        self.batches: list = []
        self._bytes = 0
        self.end()

    def end(self) -> None:
        """Let go of the iterator of an epoch, not of its images."""
        self._source: Iterator | None = None
        self._relay: Iterator | None = None

    def keeping(self, train_function: Callable) -> Callable:
        """A train function that keeps the images of the batches that it takes.

        Args:
            train_function: Keras', which takes an iterator over batches.
        """

        def function(iterator):
            if self._bytes >= self._most_bytes:
                return train_function(iterator)
            return train_function(self._relayed(iterator))

        return function

    def _relayed(self, iterator: Iterator) -> Iterator:
        spec = getattr(iterator, "element_spec", None)
        if not isinstance(iterator, tf.data.Iterator) or not _passes_numpy(spec):
            # Keras, which tells these apart, fails where a plain iterator holds nothing.
            first = self._kept(next(iterator))
            return chain([first], map(self._kept, iterator))
        if iterator is not self._source:
            if self._dataset is None or self._dataset.element_spec != spec:
                self._dataset = self._kept_from_source(spec)
            self._source = iterator
            self._relay = iter(self._dataset)
        return self._relay

    def _kept_from_source(self, spec: object) -> tf.data.Dataset:
        """The batches of whatever is the source when iteration begins."""
        options = tf.data.Options()
        # Nothing may be drawn from the source before the train function asks for it.
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False
        return tf.data.Dataset.from_generator(
            lambda: map(self._kept, self._source), output_signature=spec
        ).with_options(options)

    def _kept(self, data: object) -> object:
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        arrays = keras.tree.map_structure(_whole_array, inputs)
        self.batches.append(arrays)
        self._bytes += sum(array.nbytes for array in keras.tree.flatten(arrays))
        return data


def _passes_numpy(spec: object) -> bool:
    """Whether a generator of NumPy arrays can give elements of these types."""
    return all(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(spec))


def _whole_array(value: object) -> np.ndarray:
    """A tensor as an array, the parts of several replicas one after the other."""
    parts: Iterable = (value,)
    if isinstance(value, tf.distribute.DistributedValues):
        parts = value.values
    return np.concatenate([np.asarray(part) for part in parts])


class KeptBatches(keras.utils.PyDataset):
    """Batches that were kept, for a run of the model over them.

    Args:
        batches: for each the structure of the model's inputs.
    """

    def __init__(self, batches: Sequence) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple:
        """Return one batch, of inputs only."""
        return (self._batches[index],)
