"""Excerpts of what `benchmark_model` printed in reports of its users, from 2019 to 2025."""

from __future__ import annotations

import pytest

from tflite_ptq4.benchmark.tool_output import OperatorTime, read_tool_output
from tflite_ptq4.errors import FileFormatError

TENSORFLOW_1_13 = """\
STARTING!
Num threads: [1]
Initialized session in 9.933ms
Running benchmark for at least 4 iterations and at least 0.5 seconds
count=7 first=127425 curr=66709 min=66709 max=127425 avg=76605.9 std=20944

Running benchmark for at least 10 iterations and at least 1 seconds
count=15 first=66753 curr=66800 min=66699 max=66838 avg=66767.6 std=39

Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6
"""

# Of the time when calls were not counted yet; this profile has no heading.
TENSORFLOW_2_1 = """\
count=6 first=79449 curr=81350 min=77385 max=88213 avg=79732 std=1929
count=50 first=79449 curr=81350 min=77385 max=88213 avg=79732 std=1929
Average inference timings in us: Warmup: 83235, Init: 38467, Inference: 79760.9
"""

TENSORFLOW_2_3 = """\
Log parameter values verbosely: [0]
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450

Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, \
Inference (avg): 33209.4
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
Peak memory footprint (MB): init=0 overall=12.8672
"""

# Three seconds an inference: the averages are in scientific notation.
TENSORFLOW_2_8 = """\
count=1 curr=3512391

count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, \
Inference (avg): 2.95034e+06
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t[node type]\t[start]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\tAllocateTensors\t0.000\t1.356\t1.356\t100.000%\t100.000%\t0.000\t1\tAllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t[node type]\t[start]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\t         CONV_2D\t  0.066\t 87.754\t 60.957\t 2.066%\t 2.066%\t 0.000\t 1\t[Conv2d_0/Relu6]:0
\t         SOFTMAX\t2950.011\t  0.230\t  0.233\t 0.008%\t 100.000%\t 0.000\t 0\t[Reshape_1]:30

============================== Top by Computation Time ==============================
\t[node type]\t[start]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\t         CONV_2D\t898.426\t263.724\t277.374\t 9.403%\t 9.403%\t 0.000\t 1\t[Conv2d_5]:10

Number of nodes executed: 31
============================== Summary by node type ==============================
\t[Node type]\t[count]\t[avg ms]\t[avg %]\t[cdf %]\t[mem KB]\t[times called]
\tCONV_2D\t15\t2651.853\t89.897%\t89.897%\t0.000\t15

Timings (microseconds): count=50 first=2989660 curr=2912978 min=2727203 max=3189476 avg=3 std=1
Memory (bytes): count=0
31 nodes observed
"""

# The log of an app stamps each line and turns tabs into spaces.
LOG_2_9 = """\
05-30 13:04:39.000 25935 25935 I tflite  : count=75 first=12840 curr=11853 avg=12167.6 std=325
05-30 13:04:39.021 25935 25935 I tflite  : Inference timings in us: Init: 126059, \
First inference: 32942, Warmup (avg): 12581.9, Inference (avg): 12167.6
05-30 13:04:39.021 25935 25935 I tflite  : Memory footprint delta from the start of the tool \
(MB): init=2.03516 overall=2.03516
05-30 13:04:39.021 25935 25935 I tflite  : Operator-wise Profiling Info for Regular Benchmark Runs:
05-30 13:04:39.021 25935 25935 I tflite  : ========================= Run Order ==================
05-30 13:04:39.021 25935 25935 I tflite  :    [node type]   [first]  [avg ms]   [%]   [cdf%]  \
[mem KB]  [times called]  [Name]
05-30 13:04:39.021 25935 25935 I tflite  :    TfLiteNnapiDelegate   5.0  4.5  90.0%  90.0%  \
0.000  1  [a, b]:71
05-30 13:04:39.021 25935 25935 I tflite  :    AVERAGE_POOL_2D   0.075  0.080  10.0%  100.0%  \
0.000  1  [AvgPool]:61
05-30 13:04:39.021 25935 25935 I tflite  :
"""

TENSORFLOW_2_16 = """\
INFO: STARTING!
INFO: Signature to run: []
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: count=32 first=19834 curr=15648 min=14936 max=21608 avg=15997.4 std=1663

INFO: count=64 first=16067 curr=15102 min=14661 max=17579 avg=15517.6 std=551

INFO: Inference timings in us: Init: 32163, First inference: 19834, Warmup (avg): 15997.4, \
Inference (avg): 15517.6
INFO: Memory footprint delta from the start of the tool (MB): init=22.0273 overall=34.8281
INFO: Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
          [node type]     [first]   [avg ms]      [%]     [cdf%]   [mem KB]   [times called]  [Name]
             QUANTIZE       0.199      0.203   1.328%     1.328%      0.000      1       [tfl.q]:0
  Convolution (NHWC, QC8) DWConv    0.428  0.051  4.317%  8.304%  0.000  13  Delegate/Convolution:1
                 RESIZE_NEAREST_NEIGHBOR  0.005  0.005  0.036%  92.532%  0.000  1  [fpn/Resize]:74

Delegate internal:
============================== Run Order ==============================
          [node type]     [first]   [avg ms]      [%]     [cdf%]   [mem KB]   [times called]  [Name]
         Add (ND, QS8)    0.024      0.024   0.156%    22.580%      0.000      1     Delegate/Add:9

"""

LITERT_2025 = """\
INFO: STARTING!
INFO: Signature to run: []
INFO: count=5 first=106436 curr=105929 min=105929 max=106436 avg=106065 std=193 p5=105929 \
median=105948 p95=106436

INFO: count=50 first=106022 curr=105780 min=105416 max=106528 avg=105784 std=260 p5=105485 \
median=105718 p95=106281

INFO: Inference timings in us: Init: 87639, First inference: 106436, Warmup (avg): 106065, \
Inference (avg): 105784
INFO: Memory footprint delta from the start of the tool (MB): init=14.4414 overall=14.8164
INFO: Overall peak memory footprint (MB) via periodic monitoring: 93.2383
"""


@pytest.mark.parametrize(
    ("text", "load", "first", "average", "median", "p95", "memory"),
    [
        (TENSORFLOW_1_13, 9.933, 127.425, 66.7676, None, None, None),
        (TENSORFLOW_2_1, 38.467, 79.449, 79.7609, None, None, None),
        (TENSORFLOW_2_3, 0.855, 49.060, 33.2094, None, None, 12.8672),
        (TENSORFLOW_2_8, 17.187, 3512.391, 2950.34, None, None, 46.0859),
        (LOG_2_9, 126.059, 32.942, 12.1676, None, None, 2.03516),
        (TENSORFLOW_2_16, 32.163, 19.834, 15.5176, None, None, 34.8281),
        (LITERT_2025, 87.639, 106.436, 105.784, 105.718, 106.281, 14.8164),
        (LITERT_2025.replace("INFO: ", ""), 87.639, 106.436, 105.784, 105.718, 106.281, 14.8164),
    ],
)
def test_times_and_memory(
    text: str,
    load: float,
    first: float,
    average: float,
    median: float | None,
    p95: float | None,
    memory: float | None,
) -> None:
    found = read_tool_output(text)
    assert (found.load_ms, found.first_ms, found.average_ms) == pytest.approx(
        (load, first, average)
    )
    assert (found.median_ms, found.p95_ms, found.peak_memory_mb) == (median, p95, memory)
    assert found.typical_ms == pytest.approx(average if median is None else median)
    assert found.unknown_flags == ()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            TENSORFLOW_2_8,
            [("CONV_2D", "Conv2d_0/Relu6", 60.957, False), ("SOFTMAX", "Reshape_1", 0.233, False)],
        ),
        (
            LOG_2_9,
            [
                ("TfLiteNnapiDelegate", "a, b", 4.5, True),
                ("AVERAGE_POOL_2D", "AvgPool", 0.08, False),
            ],
        ),
        (
            TENSORFLOW_2_16,
            [
                ("QUANTIZE", "tfl.q", 0.203, False),
                ("Convolution (NHWC, QC8) DWConv", "Delegate/Convolution:1", 13 * 0.051, True),
                ("RESIZE_NEAREST_NEIGHBOR", "fpn/Resize", 0.005, False),
                ("Add (ND, QS8)", "Delegate/Add:9", 0.024, True),
            ],
        ),
        (LITERT_2025, []),
    ],
)
def test_operators(text: str, rows: list[tuple[str, str, float, bool]]) -> None:
    found = read_tool_output(text).operators
    assert found == tuple(
        OperatorTime(operator, name, pytest.approx(milliseconds), delegated)
        for operator, name, milliseconds, delegated in rows
    )


def test_what_no_delegate_computes_is_counted() -> None:
    left = read_tool_output(TENSORFLOW_2_16).operators_left()
    assert dict(left) == {"QUANTIZE": 1, "RESIZE_NEAREST_NEIGHBOR": 1}


def test_inferences_of_a_few_microseconds_are_averaged() -> None:
    text = LITERT_2025.replace("median=105718", "median=3").replace("(avg): 105784", "(avg): 3.36")
    assert read_tool_output(text).typical_ms == pytest.approx(0.00336)
    text = text.replace("(avg): 3.36", "(avg): 0")
    assert read_tool_output(text).typical_ms == 0.0005  # half of the tool's unit


def test_flags_that_were_passed_over_are_told() -> None:
    text = f"WARN: Unconsumed cmdline flags: --use_xnnpack=true --output_filepath=x\n{LITERT_2025}"
    assert read_tool_output(text).unknown_flags == ("--use_xnnpack=true", "--output_filepath=x")


@pytest.mark.parametrize("text", ["", "usage: benchmark_model\n", TENSORFLOW_2_8[:60]])
def test_output_without_times_is_refused(text: str) -> None:
    with pytest.raises(FileFormatError, match="must hold a line `Inference timings in us`"):
        read_tool_output(text)
