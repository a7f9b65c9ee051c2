"""How much slower one file is than another, from times taken side by side, and how sure that is.

A slow moment of the machine meets both files of a round, so times are divided round by round.
Between processes a ratio shifts further, with where memory comes to lie and how the files take
turns; rounds within one process do not show that, so the spread is taken over processes ("blocks"),
one ratio from each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

COVERAGE = 0.95
NOISY = 1.10  # high / low of a spread beyond which the machine is called noisy
UNSTEADY = 1.25  # the same, for a ratio that is certainly not 1
ALIKE = 1.05  # high / low of a spread within which equal times are a finding


@dataclass(frozen=True)
class Ratio:
    """A ratio of two times: the median over blocks, and where a further block's would lie.

    Attributes:
        value: above 1 where the file is slower than the reference.
        low, high: bounds of the ratio of one more block, with a probability of `COVERAGE`.
    """

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Return how many times `low` goes into `high`, at least 1."""
        return self.high / self.low

    @property
    def holds_one(self) -> bool:
        """Return whether equal times lie within the spread."""
        return self.low <= 1.0 <= self.high


def paired_ratio(times: np.ndarray, reference: np.ndarray) -> Ratio:
    """Return the ratio of two files' times with its spread.

    In block b the ratio is `r_b = median over rounds of times / reference`. The value is the median
    of the blocks; the spread is the prediction interval of one more block, with logarithms taken
    as normal: `value * exp(+-t s sqrt(1 + 1/n))`, s being the standard deviation of `log r_b` over
    the n blocks and t Student's quantile with n - 1 degrees of freedom.

    Args:
        times, reference: float [blocks, rounds], above zero; at least two blocks. What stands in
            one place was measured in one and the same round.
    """
    logarithms = np.log(np.median(times / reference, axis=1))
    blocks = len(logarithms)
    quantile = stdtrit(blocks - 1, (1 + COVERAGE) / 2)
    reach = quantile * float(np.std(logarithms, ddof=1)) * np.sqrt(1 + 1 / blocks)
    centre = float(np.median(logarithms))
    low, value, high = np.exp([centre - reach, centre, centre + reach]).tolist()
    return Ratio(value, low, high)


def noise_warnings(control: Ratio, ratios: dict[str, Ratio], reference: str) -> list[str]:
    """Say where the noise of the machine hides what was to be measured.

    Args:
        control: of the reference against itself, as a further file of the same run.
        ratios: of the other files against the reference, by name.
        reference: its name.

    Returns:
        A sentence for each thing that cannot be told, none on a quiet machine.
    """
    found = []
    if not control.holds_one or control.width > NOISY:
        found.append(
            f"Times are noisy now: {reference} against itself took {control.value:.2f} times as "
            f"long ({control.low:.2f} to {control.high:.2f}). Close other programs, or measure "
            "longer."
        )
    for name, ratio in ratios.items():
        if ratio.holds_one and ratio.width > ALIKE:
            found.append(
                f"{name} cannot be told from {reference}: the ratio lies between {ratio.low:.2f} "
                f"and {ratio.high:.2f}. Measure longer for a closer answer."
            )
        elif ratio.width > UNSTEADY:
            found.append(
                f"The ratio of {name} to {reference} is unsteady: it lies between "
                f"{ratio.low:.2f} and {ratio.high:.2f}."
            )
    return found
