"""What the converters refuse to write, and what the read-back check refuses to let out."""

from __future__ import annotations

import pytest
from exported_networks import CONFIGS, export_model, exported

from tflite_ptq4.converters import ExportSource, export
from tflite_ptq4.errors import TargetError


@pytest.mark.parametrize("target", ["int8", "", "INT8_CONTAINER"])
def test_an_unknown_target_is_refused(source: ExportSource, target: str) -> None:
    with pytest.raises(TargetError, match=r"must be one of .*int8_container.*Received: "):
        export(source, target=target)


def test_an_unknown_type_of_inputs_and_outputs_is_refused(source: ExportSource) -> None:
    with pytest.raises(TargetError, match=r"`io` must be one of float32, int8. Received: 'uint8'"):
        export(source, target="int8_container", io="uint8")


def test_float_simulated_has_no_integer_ends(source: ExportSource) -> None:
    with pytest.raises(TargetError, match="'float_simulated' has float32 inputs and outputs"):
        export(source, target="float_simulated", io="int8")


def test_a_scale_per_channel_is_refused_by_name(per_channel_source: ExportSource) -> None:
    first = per_channel_source.plan.per_channel_tensors[0]
    with pytest.raises(TargetError, match=rf"one scale per activation tensor.*{first}"):
        export(per_channel_source, target="int8_container")


def test_weights_off_the_grid_are_refused_by_name() -> None:
    made = exported("residual", "w4a8")
    config = CONFIGS["w4a8"].replace(bias_correction=True, mean_correction="weights")
    moved = export_model(made.model, made.images, calibration(made), config)
    with pytest.raises(TargetError, match=r"with mean_correction: weights.* in layer 'conv2d"):
        moved.file()
    assert moved.file("float_simulated")


def calibration(made):
    from exported_networks import calibrate

    return calibrate(made.model, made.images)


def test_a_layer_whose_operator_has_no_int8_kernel_is_refused_by_name(
    source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tflite_ptq4.converters import int8_container
    from tflite_ptq4.converters.schema import BuiltinOperator

    without_add = dict(int8_container.INT8_VERSIONS)
    del without_add[BuiltinOperator.ADD]
    monkeypatch.setattr(int8_container, "INT8_VERSIONS", without_add)
    with pytest.raises(TargetError, match=r"Layer 'add' .* int8 kernel. Received: ADD"):
        export(source, target="int8_container")
