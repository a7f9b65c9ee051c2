"""Figures of files on labelled images, and which of them moved against those of an earlier run.

Both runs see the same N images, so what counts is the images on which they differ. Where a and a'
are the shares of agreement with the float network, the two files answer differently on at most

    D = (1 - a) + (1 - a') + 1 / N

of the images, the last term for the chance of a single one. A top-1 or an agreement moved, if its
difference exceeds three standard errors of a proportion with D in its numerator, `3 sqrt(D / N)`.

The noise of an SQNR is a mean over images, e_i = sum((float - file)^2) of the logits of image i.
Its standard error in decibels is `s = 10 / ln(10) std(e) / (mean(e) sqrt(N))`, and an SQNR moved,
if its difference exceeds `3 sqrt(s^2 + s'^2)`, as if the images were others. Bits and bytes owe
nothing to the labelled images: 0.05 bits count as moved, and 1 % of the bytes, as metadata grow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tflite_ptq4.cli.console import number

STANDARD_ERRORS = 3.0
BITS_MOVED = 0.05
BYTES_MOVED = 0.01


@dataclass(frozen=True)
class Figures:
    """What is measured of one file.

    Attributes:
        images: number of labelled images.
        calibration_images: number of images that the network was quantized with.
        top1: share of images answered rightly.
        agreement: share of images answered as the float network does.
        sqnr_db: of the logits against the float network's, None where they are equal.
        sqnr_standard_error: its standard error in decibels.
        weight_bits: mean over the weights of the bits that their channel's stored values need.
        stored_weight_bits: mean over the weights of the bits that each takes in the file. Both
            without the first and the last layer, None for a network of fewer than three layers.
        activation_bits: mean over the elements of activations of the bits of their grid.
        bytes: length of the file.
    """

    images: int
    calibration_images: int
    top1: float
    agreement: float
    sqnr_db: float | None
    sqnr_standard_error: float
    weight_bits: float | None
    stored_weight_bits: float | None
    activation_bits: float
    bytes: int


# network -> case -> figures: what the reference file holds.
Results = dict[str, dict[str, Figures]]


def moved(before: Figures, now: Figures) -> list[str]:
    """Name each figure that moved by more than the images justify (module docstring)."""
    for count in ("images", "calibration_images"):
        was, is_now = getattr(before, count), getattr(now, count)
        if was != is_now:
            return [f"{count} from {was:,} to {is_now:,}: other images cannot be compared"]
    differing = 2 - before.agreement - now.agreement + 1 / now.images
    share = STANDARD_ERRORS * np.sqrt(differing / now.images)
    decibels = STANDARD_ERRORS * np.hypot(before.sqnr_standard_error, now.sqnr_standard_error)
    allowed = {
        "top1": share,
        "agreement": share,
        "sqnr_db": decibels,
        "weight_bits": BITS_MOVED,
        "stored_weight_bits": BITS_MOVED,
        "activation_bits": BITS_MOVED,
        "bytes": BYTES_MOVED * before.bytes,
    }
    found = []
    for name, most in allowed.items():
        was, is_now = getattr(before, name), getattr(now, name)
        one_is_missing = (was is None) != (is_now is None)
        if one_is_missing or (was is not None and abs(is_now - was) > most):
            found.append(
                f"{name} from {number(was, '{:.7g}')} to {number(is_now, '{:.7g}')}, "
                f"more than {most:.4g}"
            )
    return found


def compare(before: Mapping[str, Figures], now: Mapping[str, Figures]) -> list[str]:
    """Name what moved in any case, and each case that only one of two runs has."""
    found = []
    for name in dict.fromkeys((*before, *now)):
        if name not in now:
            found.append(f"{name}: in the reference only")
        elif name not in before:
            found.append(f"{name}: not in the reference")
        else:
            found += [f"{name}: {what}" for what in moved(before[name], now[name])]
    return found


def read_results(path: Path) -> Results:
    """Read a reference file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    keys = {entry.name for entry in fields(Figures)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = {
            network: {name: Figures(**figures) for name, figures in cases.items()}
            for network, cases in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"The reference must be a JSON file, network -> case -> {', '.join(sorted(keys))}. "
            f"{path} is none ({error}): take it away, and make it anew with --update."
        ) from error
    return results
