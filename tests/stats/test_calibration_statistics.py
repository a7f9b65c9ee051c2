from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_ptq4.errors import FileFormatError, OutputError, StatisticsError
from tflite_ptq4.stats import CalibrationStatistics, TensorStatistics


def statistics(
    seed: int = 0, *, images: int = 2, fingerprint: str = "f1", channels: int = 3
) -> CalibrationStatistics:
    rng = np.random.default_rng(seed)
    return CalibrationStatistics(
        images=images,
        fingerprint=fingerprint,
        tensors={
            "conv": TensorStatistics.from_array(rng.normal(size=(7, 2))),
            "block/add:0 é": TensorStatistics.from_array(rng.normal(size=(5, channels))),
        },
    )


def test_it_is_a_mapping_in_the_models_order():
    stats = statistics()
    assert list(stats) == ["conv", "block/add:0 é"]
    assert len(stats) == 2
    assert stats["conv"].channels == 2
    assert "dense" not in stats


def test_later_changes_of_the_given_mapping_do_not_reach_it():
    tensors = {"conv": TensorStatistics.empty(1)}
    stats = CalibrationStatistics(0, "f", tensors)
    tensors["dense"] = TensorStatistics.empty(1)
    assert list(stats) == ["conv"]


def test_merge_adds_images_and_merges_tensor_by_tensor():
    first, second = statistics(0, images=2), statistics(1, images=5)
    merged = first.merge(second)
    assert merged.images == 2 + 5
    assert list(merged) == list(first)
    for name in first:
        assert merged[name] == first[name].merge(second[name])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (statistics(fingerprint="f2"), "'f1' and 'f2'"),
        (CalibrationStatistics(1, "f1", {"conv": TensorStatistics.empty(2)}), "block/add:0"),
        (statistics(channels=4), "has 3 channels in one and 4 in the other"),
    ],
    ids=["fingerprint", "names", "channels"],
)
def test_statistics_of_another_model_do_not_merge(other: CalibrationStatistics, message: str):
    with pytest.raises(StatisticsError, match=message):
        statistics().merge(other)


def test_impossible_records_are_refused():
    with pytest.raises(StatisticsError, match="received -1"):
        CalibrationStatistics(-1, "f", {})
    with pytest.raises(StatisticsError, match="'conv' must be a TensorStatistics"):
        CalibrationStatistics(1, "f", {"conv": np.zeros(3)})


@pytest.mark.parametrize(
    "stats",
    [
        statistics(),
        CalibrationStatistics(0, "", {}),
        CalibrationStatistics(0, "f", {"conv": TensorStatistics.empty(3)}),
        CalibrationStatistics(1, "f", {"none": TensorStatistics.empty(0)}),
    ],
    ids=["usual", "no tensors", "no values", "no channels"],
)
def test_load_gives_back_what_was_saved(stats: CalibrationStatistics, tmp_path: Path):
    path = tmp_path / "statistics.npz"
    stats.save(path)
    loaded = CalibrationStatistics.load(path)
    assert loaded == stats
    assert list(loaded) == list(stats)


def test_equal_statistics_are_equal_bytes(tmp_path: Path):
    statistics().save(tmp_path / "a.npz")
    statistics().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_empty_bins_take_no_room(tmp_path: Path):
    rng = np.random.default_rng(0)
    tensor = TensorStatistics.from_array(rng.normal(size=(1000, 64)))
    CalibrationStatistics(1, "f", {"conv": tensor}).save(tmp_path / "a.npz")
    # Dense histograms are 64 * 1025 int64; about one bin in ten is occupied.
    assert (tmp_path / "a.npz").stat().st_size < 64 * 1025 * 8 / 10


def test_saving_into_a_missing_folder_is_an_output_error(tmp_path: Path):
    with pytest.raises(OutputError, match="missing"):
        statistics().save(tmp_path / "missing" / "a.npz")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileFormatError, match=r"nowhere\.npz"):
        CalibrationStatistics.load(tmp_path / "nowhere.npz")


def saved_bytes(tmp_path: Path, **arrays: np.ndarray) -> bytes:
    """The file of `statistics()`, with some of its arrays replaced."""
    path = tmp_path / "original.npz"
    statistics().save(path)
    with np.load(path) as archive:
        content = {**archive, **arrays}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"format_name": np.array("other")}, "'other' version 1"),
        ({"format_version": np.array(2)}, "version 2"),
        ({"channels": np.array([2, 4])}, "one entry per channel"),
        ({"channels": np.array([6, -1])}, "do not fit together"),
        ({"names": np.array(["conv", "conv"])}, "do not fit together"),
        ({"mean": np.full(5, np.nan)}, "mean must be finite"),
        ({"histogram_position": np.array([3, 1])}, "ascending"),
        ({"histogram_position": np.array([10**9]), "histogram_count": np.array([1])}, "bounds"),
        ({"images": np.array([1, 2])}, "scalar"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(arrays, message: str, tmp_path: Path):
    path = tmp_path / "altered.npz"
    path.write_bytes(saved_bytes(tmp_path, **arrays))
    with pytest.raises(FileFormatError, match=message):
        CalibrationStatistics.load(path)


def foreign_files() -> dict[str, bytes]:
    npy, npz, archive, pickled = (io.BytesIO() for _ in range(4))
    np.save(npy, np.zeros(3))
    np.savez(npz, weight=np.zeros(3))
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("format_name.npy", b"text")
    np.savez(pickled, format_name=np.array([{}], dtype=object))
    return {
        "empty": b"",
        "text": b"not statistics\n" * 20,
        "npy": npy.getvalue(),
        "other npz": npz.getvalue(),
        "zip": archive.getvalue(),
        "pickle": pickled.getvalue(),
    }


@pytest.mark.parametrize("data", foreign_files().values(), ids=foreign_files())
def test_a_foreign_file_is_refused(data: bytes, tmp_path: Path):
    path = tmp_path / "foreign.npz"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"foreign\.npz"):
        CalibrationStatistics.load(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "statistics.npz"
    statistics().save(path)
    return path


@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(saved: Path, fraction: float):
    data = saved.read_bytes()
    cut = saved.with_name("cut.npz")
    cut.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(FileFormatError, match=r"cut\.npz"):
        CalibrationStatistics.load(cut)


@given(fraction=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_file_is_refused_or_reads_the_same(saved: Path, fraction: float, flip: int):
    data = bytearray(saved.read_bytes())
    data[int(fraction * len(data))] ^= flip
    damaged = saved.with_name("damaged.npz")
    damaged.write_bytes(data)
    try:
        # Bytes that only the zip format reads, such as dates, may change without harm.
        assert CalibrationStatistics.load(damaged) == statistics()
    except FileFormatError as error:
        assert "damaged.npz" in str(error)
