"""The stand-in's `benchmark_model`: it runs the file in LiteRT and prints what TensorFlow's prints.

`write_program` makes a program for x86-64 that starts this script, as small as one can be: what a
device is given, and checks, is a real one. How it fails, and what it does not know, is set in the
environment of the device.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

CRASH = "STAND_IN_CRASH"  # the signal that ends it
UNKNOWN = "STAND_IN_UNKNOWN_FLAGS"  # flags that it passes over, between spaces
SLOW = "STAND_IN_SECONDS"  # how long it takes in the end
OTHER = "STAND_IN_ROUNDS_OTHERWISE"  # "1": the first integer of its outputs is off by one


def write_program(path: Path, *, machine: int = 62, linker: str = "") -> Path:
    """Write an ELF program that runs this script in this Python, handing on its arguments."""
    base, header, entry = 0x400000, 64, 56
    headers = 2 if linker else 1
    start = header + entry * headers
    code_length = 64
    strings = [sys.executable.encode(), os.path.abspath(__file__).encode(), linker.encode()]
    places, place = [], start + code_length
    for text in strings:
        places.append(place)
        place += len(text) + 1
    size = place
    # rsp holds argc, argv[0], argv[1]...: the first two become the words "python script".
    code = b"\x48\x8b\x0c\x24"  # mov rcx, [rsp]
    code += b"\x48\x8d\x54\xcc\x10"  # lea rdx, [rsp + rcx * 8 + 16], the environment
    code += b"\x48\xbf" + struct.pack("<Q", base + places[0])  # mov rdi, python
    code += b"\x48\x89\x3c\x24"  # mov [rsp], rdi
    code += b"\x48\xb8" + struct.pack("<Q", base + places[1])  # mov rax, script
    code += b"\x48\x89\x44\x24\x08"  # mov [rsp + 8], rax
    code += b"\x48\x89\xe6"  # mov rsi, rsp
    code += b"\xb8\x3b\0\0\0\x0f\x05"  # execve
    code += b"\xbf\x7f\0\0\0\xb8\x3c\0\0\0\x0f\x05"  # exit(127)
    assert len(code) <= code_length
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    content = identity + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + start, header, 0, 0, header, entry, headers, 0, 0, 0
    )
    content += struct.pack("<IIQQQQQQ", 1, 7, 0, base, base, size, size, 4096)
    if linker:
        length = len(linker) + 1
        content += struct.pack("<IIQQQQQQ", 3, 4, places[2], 0, 0, length, length, 1)
    content += code.ljust(code_length, b"\xcc")
    content += b"".join(text + b"\0" for text in strings)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def _say(text: str) -> None:
    print(f"INFO: {text}", flush=True)


def _counts(times: list[float]) -> str:
    us = [int(one * 1e6) for one in times]
    if len(us) == 1:
        return f"count=1 curr={us[0]} p5={us[0]} median={us[0]} p95={us[0]}"
    ordered = sorted(us)
    p5, median, p95 = (ordered[int(share * (len(us) - 1))] for share in (0.05, 0.5, 0.95))
    return (
        f"count={len(us)} first={us[0]} curr={us[-1]} min={ordered[0]} max={ordered[-1]} "
        f"avg={sum(us) / len(us):g} std=1 p5={p5} median={median} p95={p95}"
    )


def main() -> None:
    unknown = os.environ.get(UNKNOWN, "").split()
    given = sys.argv[1:]
    passed_over = [one for one in given if one.split("=")[0] in unknown]
    flags = dict(one.removeprefix("--").split("=", 1) for one in given if one not in passed_over)
    _say("STARTING!")
    _say(f"Graph: [{flags['graph']}]")
    if passed_over:
        print(f"WARN: Unconsumed cmdline flags: {' '.join(passed_over)}")
    if CRASH in os.environ:
        os.kill(os.getpid(), int(os.environ[CRASH]))
    start = time.perf_counter()
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = (
        OpResolverType.BUILTIN
        if flags.get("use_xnnpack", "true") == "true"
        else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    model = Interpreter(flags["graph"], experimental_op_resolver_type=resolver)
    model.allocate_tensors()
    loaded = time.perf_counter() - start
    _say(f"Loaded model {flags['graph']}")
    files = [
        one.split(":", 1)[1] for one in flags.get("input_layer_value_files", "").split(",") if one
    ]
    for index, detail in enumerate(model.get_input_details()):
        value = np.zeros(detail["shape"], detail["dtype"])
        if files:
            content = Path(files[index]).read_bytes()
            if len(content) != value.nbytes:
                sys.exit(
                    f"ERROR: The size of {files[index]} is {len(content)} bytes. It should be "
                    f"{value.nbytes} bytes."
                )
            value = np.frombuffer(content, value.dtype).reshape(value.shape)
        model.set_tensor(detail["index"], value)
    warm, regular = [], []
    for taken, count in ((warm, flags["warmup_runs"]), (regular, flags["num_runs"])):
        for _ in range(int(count)):
            begun = time.perf_counter()
            model.invoke()
            taken.append(time.perf_counter() - begun)
        _say(f"{_counts(taken)}\n")
    _say(
        f"Inference timings in us: Init: {int(loaded * 1e6)}, First inference: "
        f"{int(warm[0] * 1e6)}, Warmup (avg): {sum(warm) / len(warm) * 1e6:g}, Inference (avg): "
        f"{sum(regular) / len(regular) * 1e6:g}"
    )
    _say("Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
    if flags.get("enable_op_profiling") == "true":
        _say("Operator-wise Profiling Info for Regular Benchmark Runs:")
        print("============================== Run Order ==============================")
        print("\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]")
        from tflite_ptq4.benchmark.interpreters import operators_left

        parts = [one["op_name"] for one in model._get_ops_details()].count("DELEGATE")
        for name in ["TfLiteXNNPackDelegate"] * parts + operators_left(model):
            print(f"\t{name}\t0.1\t0.1\t10.000%\t10.000%\t0.000\t1\t[some output]:0")
        print()
    if "output_filepath" in flags:
        outputs = [model.get_tensor(detail["index"]) for detail in model.get_output_details()]
        if os.environ.get(OTHER) == "1":
            outputs[0].flat[0] ^= 1
        Path(flags["output_filepath"]).write_bytes(b"".join(one.tobytes() for one in outputs))
    time.sleep(float(os.environ.get(SLOW, "0")))


if __name__ == "__main__":
    main()
