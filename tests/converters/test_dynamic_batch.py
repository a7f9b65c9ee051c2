"""Which operators let a batch be opened, what changes in them, and which are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from flatbuffer_compare import unequal_fields
from runtimes import interpreter
from tiny_graphs import graph_of, plain
from tiny_tflite import TinyModel

from tflite_ptq4.converters.dynamic_batch import open_batch
from tflite_ptq4.converters.flatbuffer_model import parse, serialize
from tflite_ptq4.converters.graph_editor import GraphEditor
from tflite_ptq4.errors import TargetError
from tflite_ptq4.graph import LayerGraph

NO_LAYERS = LayerGraph(nodes=(), inputs=(), outputs=(), shapes={})

# From a network of nothing and its input [1, 4, 4, 2], tensor_0, to the output.
Build = Callable[[TinyModel, int], int]


def file_of(build: Build) -> bytes:
    """A file as the writers leave it, with a signature."""
    tiny = TinyModel()
    image = tiny.activation((1, 4, 4, 2))
    output = build(tiny, image)
    editor = GraphEditor(parse(tiny.to_bytes([image], [output])))
    for operator in editor.graph.operators:
        editor.keep(operator)
    editor.set_interface({"image": image}, [("output_0", output)])
    return serialize(editor.finish())


def opened(data: bytes, graph: LayerGraph) -> bytes:
    return serialize(open_batch(parse(data), graph))


def integers(*values: object) -> np.ndarray:
    return np.array(values, np.int32)


def apply(
    name: str,
    shape: Sequence[int],
    constants: Sequence[np.ndarray] = (),
    options: str | None = None,
    *,
    constants_first: bool = False,
    **fields: object,
) -> Build:
    """One operator on the image and constants."""

    def build(tiny: TinyModel, image: int) -> int:
        rest = [tiny.constant(np.asarray(values)) for values in constants]
        inputs = [*rest, image] if constants_first else [image, *rest]
        return tiny.operator(name, inputs, tiny.activation(shape), options, **fields)

    return build


def then(first: Build, second: Build) -> Build:
    return lambda tiny, image: second(tiny, first(tiny, image))


def twice(name: str, shape: Sequence[int], options: str, **fields: object) -> Build:
    """One operator on the image and the image again."""
    return lambda tiny, image: tiny.operator(
        name, [image, image], tiny.activation(shape), options, **fields
    )


def reshape(*shape: int) -> Build:
    return apply("RESHAPE", shape, [integers(*shape)], "ReshapeOptions", newShape=integers(*shape))


def strided_slice(begin: tuple, end: tuple, stride: tuple, shape: tuple, **masks: int) -> Build:
    bounds = [integers(*begin), integers(*end), integers(*stride)]
    return apply("STRIDED_SLICE", shape, bounds, "StridedSliceOptions", **masks)


WHOLE = ((0, 1, 0, 0), (1, 3, 4, 2), (1, 1, 1, 1), (1, 2, 4, 2))
OPENED: dict[str, Build] = {
    "reshape": reshape(1, 32),
    # [1, 4, 4, 2] -> [4, 8] -> [1, 32]: four rows for each image in between.
    "reshape through rows": then(reshape(4, 8), reshape(1, 32)),
    "add of a broadcast constant": apply(
        "ADD", (1, 4, 4, 2), [np.ones((1, 1, 1, 2), np.float32)], "AddOptions"
    ),
    "add of a number": apply("ADD", (1, 4, 4, 2), [np.ones((), np.float32)], "AddOptions"),
    "mean of positions": apply("MEAN", (1, 2), [integers(1, 2)], "ReducerOptions", keepDims=False),
    "mean of channels": apply("MEAN", (1, 4, 4), [integers(-1)], "ReducerOptions"),
    "concatenation": twice("CONCATENATION", (1, 4, 4, 4), "ConcatenationOptions", axis=-1),
    "pack": twice("PACK", (1, 2, 4, 4, 2), "PackOptions", axis=1, valuesCount=2),
    "transpose": apply("TRANSPOSE", (1, 2, 4, 4), [integers(0, 3, 1, 2)], "TransposeOptions"),
    "pad": apply("PAD", (1, 6, 4, 2), [integers((0, 0), (1, 1), (0, 0), (0, 0))], "PadOptions"),
    "tile": apply("TILE", (1, 8, 4, 2), [integers(1, 2, 1, 1)], "TileOptions"),
    "slice": apply(
        "SLICE", (1, 2, 4, 2), [integers(0, 1, 0, 0), integers(1, 2, 4, 2)], "SliceOptions"
    ),
    "strided slice": strided_slice(*WHOLE),
    "strided slice of a row": strided_slice(*WHOLE[:3], (1, 4, 2), shrinkAxisMask=2),
    "squeeze": then(
        reshape(1, 1, 32), apply("SQUEEZE", (1, 32), (), "SqueezeOptions", squeezeDims=integers(1))
    ),
    "expand": apply("EXPAND_DIMS", (1, 4, 4, 1, 2), [integers(3)[0]], "ExpandDimsOptions"),
    "softmax": apply("SOFTMAX", (1, 4, 4, 2), (), "SoftmaxOptions", beta=1.0),
    "depth to space": apply("SPACE_TO_DEPTH", (1, 2, 2, 8), (), "SpaceToDepthOptions", blockSize=2),
    "products": twice("BATCH_MATMUL", (1, 4, 4, 4), "BatchMatMulOptions", adjY=True),
    "what needs no image": lambda tiny, image: tiny.operator(
        "ADD",
        [
            image,
            tiny.operator(
                "MEAN",
                [tiny.constant(np.ones((3, 2), np.float32)), tiny.constant(integers(0))],
                tiny.activation((2,)),
                "ReducerOptions",
            ),
        ],
        tiny.activation((1, 4, 4, 2)),
        "AddOptions",
    ),
}


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
@pytest.mark.parametrize("case", OPENED)
def test_n_images_at_a_time_give_what_n_runs_give(
    case: str, runtime: str, rng: np.random.Generator
) -> None:
    data = file_of(OPENED[case])
    images = rng.normal(size=(3, 4, 4, 2)).astype(np.float32)
    single = interpreter(data, runtime)
    expected = []
    for image in images:
        single.set_tensor(single.get_input_details()[0]["index"], image[None])
        single.invoke()
        expected.append(single.get_tensor(single.get_output_details()[0]["index"]))
    ready = interpreter(opened(data, NO_LAYERS), runtime)
    (source,), (result,) = ready.get_input_details(), ready.get_output_details()
    assert (source["shape"][0], result["shape"][0]) == (1, 1)
    assert (source["shape_signature"][0], result["shape_signature"][0]) == (-1, -1)
    ready.resize_tensor_input(source["index"], images.shape, strict=True)
    ready.allocate_tensors()
    ready.set_tensor(source["index"], images)
    ready.invoke()
    np.testing.assert_array_equal(ready.get_tensor(result["index"]), np.concatenate(expected))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (twice("CONCATENATION", (2, 4, 4, 2), "ConcatenationOptions", axis=0), "along the batch"),
        (twice("CONCATENATION", (2, 4, 4, 2), "ConcatenationOptions", axis=-4), "along the batch"),
        (twice("PACK", (2, 1, 4, 4, 2), "PackOptions", axis=-5), "along the batch"),
        (
            apply("CONCATENATION", (1, 4, 4, 3), [np.ones((1, 4, 4, 1), np.float32)],
                  "ConcatenationOptions", axis=3),
            "a part that does not depend on the images",
        ),
        (apply("MEAN", (4, 2), [integers(0, 1)], "ReducerOptions"), "MEAN, along the batch"),
        (apply("MEAN", (4, 4, 2), [integers(-4)], "ReducerOptions"), "MEAN, along the batch"),
        (
            apply("SPLIT", (1, 4, 4, 2), [integers(0)[0]], "SplitOptions", constants_first=True,
                  numSplits=1),
            "SPLIT, along the batch",
        ),
        (
            apply("EXPAND_DIMS", (1, 1, 4, 4, 2), [integers(-5)[0]], "ExpandDimsOptions"),
            "along the batch",
        ),
        (apply("TRANSPOSE", (4, 1, 4, 2), [integers(1, 0, 2, 3)]), "that moves the batch"),
        (apply("PAD", (2, 4, 4, 2), [integers((0, 1), (0, 0), (0, 0), (0, 0))]), "PAD, of the"),
        (apply("TILE", (2, 4, 4, 2), [integers(2, 1, 1, 1)]), "TILE, of the batch"),
        (
            apply("SLICE", (0, 4, 4, 2), [integers(1, 0, 0, 0), integers(0, 4, 4, 2)]),
            "SLICE, of the batch",
        ),
        (
            strided_slice((0, 0, 0, 0), (1, 4, 4, 2), (-1, 1, 1, 1), (1, 4, 4, 2)),
            "STRIDED_SLICE, of the batch",
        ),
        (strided_slice((1, 0, 0, 0), (2, 4, 4, 2), (1,) * 4, (0, 4, 4, 2)), "of the batch"),
        (strided_slice(*WHOLE[:3], (2, 4, 2), shrinkAxisMask=1), "removes or adds axes"),
        (strided_slice(*WHOLE, newAxisMask=1), "removes or adds axes"),
        (strided_slice(*WHOLE, ellipsisMask=1), "removes or adds axes"),
        (apply("SQUEEZE", (4, 4, 2), (), "SqueezeOptions", squeezeDims=integers()), "of the batch"),
        (
            apply("SQUEEZE", (4, 4, 2), (), "SqueezeOptions", squeezeDims=integers(-4)),
            "of the batch",
        ),
        (apply("RESHAPE", (), [integers()]), "no place for the batch"),
        (
            then(reshape(4, 8), apply("ADD", (4, 8), [np.ones((4, 8), np.float32)], "AddOptions")),
            "a constant for every entry of the first axis",
        ),
        (
            apply("ADD", (1, 1, 4, 4, 2), [np.ones((1, 1, 4, 4, 2), np.float32)], "AddOptions"),
            "do not have the batch as the same axis",
        ),
        (
            apply("MUL", (3, 4, 4, 2), [np.ones((3, 1, 1, 1), np.float32)], "MulOptions"),
            "do not have the batch as the same axis",
        ),
        (then(reshape(32), apply("SOFTMAX", (32,), (), "SoftmaxOptions")), "over the batch"),
        (
            then(reshape(1, 32), twice("FULLY_CONNECTED", (1, 1), "FullyConnectedOptions")),
            "whose other inputs depend on the images",
        ),
        (
            apply("BATCH_MATMUL", (1, 4, 4, 3), [np.ones((1, 4, 2, 3), np.float32)]),
            "that do not share the batch",
        ),
        (apply("BROADCAST_TO", (1, 4, 4, 2), [integers(1, 4, 4, 2)]), "is a constant with the"),
        (
            apply("TRANSPOSE_CONV", (1, 8, 8, 1),
                  [integers(1, 8, 8, 1), np.ones((1, 2, 2, 2), np.float32)], constants_first=True),
            "TRANSPOSE_CONV, whose output shape is a constant",
        ),
        (apply("SHAPE", (4,)), "SHAPE, which may compute across the batch, or fix it"),
        (reshape(4, 8), r"one entry for each image.*'output_0', of shape \(4, 8\) for one image"),
        (
            lambda tiny, image: tiny.operator(
                "NEG", [tiny.constant(np.ones((1, 2), np.float32))], tiny.activation((1, 2))
            ),
            r"one entry for each image.*'output_0', of shape \(1, 2\)",
        ),
    ],
)  # fmt: skip
def test_what_fixes_or_crosses_the_batch_is_refused(build: Build, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        opened(file_of(build), NO_LAYERS)


def test_the_layer_is_named_even_where_the_operator_lies_inside_it() -> None:
    """tensor_2 is inside the layer that writes tensor_3."""
    inner = apply("TRANSPOSE", (4, 1, 4, 2), [integers(1, 0, 2, 3)])
    graph = graph_of(plain("tensor_3", "float", "image"))
    with pytest.raises(TargetError, match=r"Layer 'tensor_3' \(Lambda\) .* TRANSPOSE, that moves"):
        opened(file_of(then(inner, apply("NEG", (4, 1, 4, 2)))), graph)


def test_where_no_constant_holds_the_batch_only_the_signatures_change() -> None:
    data = file_of(OPENED["add of a number"])
    unequal = unequal_fields(parse(opened(data, NO_LAYERS)), parse(data))
    assert [line.split(":")[0] for line in unequal] == [
        "subgraphs[0].tensors[0].shapeSignature",
        "subgraphs[0].tensors[2].shapeSignature",
    ]


def test_a_shape_that_two_operators_share_is_opened_in_both() -> None:
    def build(tiny: TinyModel, image: int) -> int:
        shape = tiny.constant(integers(1, 32))
        flat = [
            tiny.operator("RESHAPE", [image, shape], tiny.activation((1, 32))) for _ in range(2)
        ]
        return tiny.operator("ADD", flat, tiny.activation((1, 32)), "AddOptions")

    editor = GraphEditor(parse(opened(file_of(build), NO_LAYERS)))
    shapes = [editor.constant(int(o.inputs[1])).tolist() for o in editor.graph.operators[:2]]
    assert shapes == [[-1, 32], [-1, 32]]
