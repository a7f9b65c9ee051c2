from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tflite_ptq4.errors import DataError
from tflite_ptq4.image_data import load_images, load_inputs


def save_picture(path: Path, height: int = 4, width: int = 4, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def make_folder(folder: Path, names: Sequence[str]) -> Path:
    """Pictures whose every pixel is their position in `names`."""
    for value, name in enumerate(names):
        save_picture(folder / name, value=value)
    return folder


def first_pixels(images: np.ndarray) -> list[float]:
    return images[:, 0, 0, 0].tolist()


class TestArrays:
    def test_npz_gives_normalised_images_and_labels(self, tmp_path: Path) -> None:
        x = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
        np.savez(tmp_path / "data.npz", x=x, y=np.array([[3], [1]], np.uint8))
        got = load_images(tmp_path / "data.npz", mean=(1, 2, 3), std=(2, 4, 8))
        np.testing.assert_array_equal(
            got.images[0][:], ((x.astype(np.float64) - [1, 2, 3]) / [2, 4, 8]).astype(np.float32)
        )
        assert got.images[0][:].dtype == np.float32
        assert (got.labels.tolist(), got.labels.dtype) == ([3, 1], np.int64)
        assert got.names == ("x[0]", "x[1]")

    def test_npy_has_no_labels(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((3, 2, 2, 1)))
        got = load_images(tmp_path / "x.npy", samples=2)
        assert got.images[0][:].shape == (2, 2, 2, 1)
        assert got.labels is None

    def test_grey_images_without_a_channel_axis_fit_a_grey_network(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((3, 5, 4), np.uint8))
        assert load_images(tmp_path / "x.npy", input_shape=(5, 4, 1)).images[0].shape == (
            3,
            5,
            4,
            1,
        )

    def test_samples_take_images_with_their_labels(self, tmp_path: Path) -> None:
        x = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1)
        np.savez(tmp_path / "data.npz", x=x, y=np.arange(10) * 10)
        got = load_images(tmp_path / "data.npz", samples=4)
        assert first_pixels(got.images[0][:]) == [0, 3, 6, 9]  # i * 9 / 3
        assert got.labels.tolist() == [0, 30, 60, 90]

    def test_resize_and_crop_of_uint8_images(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.full((2, 8, 16, 3), 7, np.uint8))
        got = load_images(tmp_path / "x.npy", resize=4, crop=2, input_shape=(2, 2, 3))
        np.testing.assert_array_equal(got.images[0][:], np.full((2, 2, 2, 3), 7))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": np.ones((1, 2, 2, 3))}, "key `x`.*It holds: images"),
            ({"x": np.ones((0, 2, 2, 3))}, "at least one image"),
            ({"x": np.ones((4, 4))}, r"\[N, height, width, channels\].*\(4, 4\)"),
            ({"x": np.ones((1, 2, 2, 3)) + 1j}, "numbers.*complex128"),
            ({"x": np.array([None])}, "plain number arrays"),
            ({"x": np.ones((2, 4, 4, 3)), "y": np.arange(3)}, r"2 whole numbers.*\(3,\)"),
            ({"x": np.ones((2, 4, 4, 3)), "y": np.eye(2)}, r"2 whole numbers.*\(2, 2\)"),
            ({"x": np.ones((2, 4, 4, 3)), "y": np.ones(2)}, "2 whole numbers.*float64"),
            ({"x": np.ones((2, 5, 4, 3))}, "4 x 4 x 3.*5 x 4 x 3.*--resize and --crop"),
            ({"x": np.ones((2, 4, 4, 1))}, "4 x 4 x 3.*4 x 4 x 1"),
            ({"x": np.array([0, 0, np.nan]).reshape(3, 1, 1, 1) + np.ones((1, 4, 4, 3))},
             "finite: image 2 .*1 of 3"),
            ({"x": np.full((1, 4, 4, 3), np.inf)}, "finite: image 0"),
            ({"x": np.full((1, 4, 4, 3), 1e300)}, "finite: image 0"),
        ],
        ids=[
            "no x", "no image", "two axes", "complex", "objects", "too many labels", "one-hot",
            "float labels", "size", "channels", "nan", "inf", "beyond float32",
        ],
    )  # fmt: skip
    def test_arrays_that_cannot_be_used_are_refused(
        self, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
    ) -> None:
        path = tmp_path / "bad.npz"
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message) as refused:
            load_images(path, input_shape=(4, 4, 3))
        assert str(path) in str(refused.value)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.npz"):
            load_images(tmp_path / "bad.npz")

    @pytest.mark.parametrize("position", range(0, 700, 7))
    def test_a_changed_byte_is_refused_or_read(self, tmp_path: Path, position: int) -> None:
        path = tmp_path / "changed.npz"
        np.savez_compressed(path, x=np.ones((2, 2, 2, 1)), y=np.arange(2))
        content = bytearray(path.read_bytes())
        content[position % len(content)] ^= 0x55
        path.write_bytes(content)
        with suppress(DataError):
            load_images(path)


class TestSeveralInputs:
    SHAPES: ClassVar = {"left": (2, None, 1), "pose": (3,)}
    ARRAYS: ClassVar = {
        "pose": np.arange(15, dtype=np.float64).reshape(5, 3),
        "left": np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) + np.zeros((2, 4, 1), np.uint8),
    }

    def test_arrays_come_in_the_order_of_the_inputs(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", **self.ARRAYS, y=[[3], [1], [4], [1], [5]])
        got = load_inputs(tmp_path / "data.npz", self.SHAPES, samples=2)
        assert [array.dtype for array in got.images] == [np.float32, np.float32]
        assert first_pixels(got.images[0]) == [0, 4]  # the first and the last
        assert got.images[1].tolist() == [[0, 1, 2], [12, 13, 14]]
        assert (got.labels.tolist(), got.names, len(got)) == ([3, 5], ("[0]", "[4]"), 2)
        assert list(got.named(self.SHAPES)) == ["left", "pose"]

    def test_an_input_may_be_called_y(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", x=np.ones((2, 1)), y=np.zeros((2, 4)))
        got = load_inputs(tmp_path / "data.npz", {"y": (4,), "x": (1,)})
        assert [array.shape for array in got.images] == [(2, 4), (2, 1)]
        assert got.labels is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pose": None}, r"each input of the network \(left, pose\).*It holds: left\."),
            ({"pose": None, "x": np.ones(5)}, "It holds: left, x."),
            ({"more": np.ones(5)}, "It holds: pose, left, more."),
            ({"pose": np.ones((4, 3))}, "same number .*: 5 for 'left', 4 for 'pose'"),
            ({"pose": np.ones((5, 2))}, "input 'pose', 3 per image. Received: 2"),
            ({"left": np.ones((5, 2, 4))}, "input 'left', 2 x any x 1 per image"),
            ({"pose": np.full((5, 3), np.nan)}, "5 of 5 images of input 'pose'"),
            ({"pose": np.full((5, 3), 1e300)}, "5 of 5 images of input 'pose'"),
            ({"pose": np.array([["a"] * 3] * 5)}, "real numbers.*'pose'"),
            ({"pose": np.array([None] * 5)}, "plain number arrays"),
            ({"left": np.ones((0, 2, 4, 1)), "pose": np.ones((0, 3))}, "at least one image"),
            ({"y": np.arange(4)}, "5 whole numbers"),
        ],
        ids=[
            "missing", "wrong name", "one more", "lengths", "width", "rank", "nan",
            "beyond float32", "text", "objects", "empty", "labels",
        ],
    )  # fmt: skip
    def test_a_file_that_does_not_fit_is_refused(
        self, tmp_path: Path, changes: dict, message: str
    ) -> None:
        arrays = {**self.ARRAYS, **changes}
        np.savez(tmp_path / "bad.npz", **{k: v for k, v in arrays.items() if v is not None})
        with pytest.raises(DataError, match=message) as refused:
            load_inputs(tmp_path / "bad.npz", self.SHAPES)
        assert "bad.npz" in str(refused.value)

    def test_one_array_and_folders_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((5, 3)))
        with pytest.raises(DataError, match=r"\(left, pose\).*It holds: x"):
            load_inputs(tmp_path / "x.npy", self.SHAPES)
        with pytest.raises(DataError, match=r"one input, but the network has 2 \(left, pose\)"):
            load_inputs(make_folder(tmp_path, ["a.png"]), self.SHAPES)
        with pytest.raises(DataError, match=r"absent\.npz"):
            load_inputs(tmp_path / "absent.npz", self.SHAPES)


class TestFolder:
    def test_pictures_come_sorted_and_recursively(self, tmp_path: Path) -> None:
        make_folder(tmp_path, ["b.png", "a/z.PNG", "c/d/e.bmp", "a.jpeg"])
        (tmp_path / "notes.txt").write_text("no picture")
        (tmp_path / ".hidden.png").write_bytes(b"no picture")
        got = load_images(tmp_path)
        assert got.names == ("a.jpeg", "a/z.PNG", "b.png", "c/d/e.bmp")
        assert first_pixels(got.images[0][:]) == [3, 1, 0, 2]

    def test_only_the_chosen_pictures_are_read(self, tmp_path: Path) -> None:
        make_folder(tmp_path, [f"{i}.png" for i in range(6)])
        (tmp_path / "1.png").write_bytes(b"broken")
        got = load_images(tmp_path, samples=3)
        assert got.names == ("0.png", "2.png", "5.png")  # 0, 2.5 and 5
        assert first_pixels(got.images[0][1:]) == [2, 5]
        assert got.images[0].shape == (3, 4, 4, 3)

    def test_resize_sets_the_short_side_and_crop_keeps_the_centre(self, tmp_path: Path) -> None:
        pixels = np.zeros((8, 24, 3), np.uint8)
        pixels[:, 8:16] = 200
        Image.fromarray(pixels).save(tmp_path / "wide.png")
        got = load_images(tmp_path, resize=4)
        assert got.images[0].shape == (1, 4, 12, 3)
        centre = load_images(tmp_path, resize=4, crop=2, mean=100, std=50, input_shape=(2, 2, 3))
        np.testing.assert_array_equal(centre.images[0][:], np.full((1, 2, 2, 3), 2.0))

    def test_resize_is_antialiased(self, tmp_path: Path) -> None:
        """Stripes of one pixel average out; without antialiasing some would survive."""
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:, ::2] = 255
        Image.fromarray(pixels).save(tmp_path / "stripes.png")
        inner = load_images(tmp_path, resize=8).images[0][:][:, 1:-1, 1:-1]
        assert np.ptp(inner) <= 2
        assert abs(inner.mean() - 127.5) < 2

    def test_a_grey_network_gets_grey_pictures(self, tmp_path: Path) -> None:
        make_folder(tmp_path, ["a.png", "b.png"])
        got = load_images(tmp_path, input_shape=(None, None, 1))
        assert got.images[0][:].shape == (2, 4, 4, 1)

    @pytest.mark.parametrize(
        ("names", "labels"),
        [
            (["dog/a.png", "cat/b.png", "cat/c/d.png"], [0, 0, 1]),  # cat, cat, dog
            (["10/a.png", "2/b.png"], [10, 2]),
            (["one/0207_dog.png", "one/0003_cat.png"], [3, 207]),
            (["12_a.png", "3_b.png"], [12, 3]),
            (["12_a.png", "b.png"], None),
            (["a.png", "b.png"], None),
            (["dog/a.png", "b.png"], None),
        ],
    )
    def test_labels_from_folders_and_names(
        self, tmp_path: Path, names: list[str], labels: list[int] | None
    ) -> None:
        got = load_images(make_folder(tmp_path, names)).labels
        assert (None if got is None else got.tolist()) == labels

    @pytest.mark.parametrize("heading", ["file,label\n", ""])
    def test_a_table_of_labels_comes_first(self, tmp_path: Path, heading: str) -> None:
        make_folder(tmp_path, ["cat/1_a.png", "dog/2_b.png"])
        (tmp_path / "labels.csv").write_text(f"{heading}dog/2_b.png,7\ncat/1_a.png, 5\nx.png,1\n")
        assert load_images(tmp_path).labels.tolist() == [5, 7]

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ("file,label\na.png,1\n", r"none for 'b\.png' \(1 of 2"),
            ("a.png,1\nb.png,dog\n", "Received: 'b.png,dog'"),
            ("a.png,1\na.png,2\nb.png,1\n", "gives 1 and 2 for 'a.png'"),
            ("a.png\n", "file,label"),
        ],
    )
    def test_a_table_that_cannot_be_meant_is_refused(
        self, tmp_path: Path, table: str, message: str
    ) -> None:
        make_folder(tmp_path, ["a.png", "b.png"])
        (tmp_path / "labels.csv").write_text(table)
        with pytest.raises(DataError, match=message):
            load_images(tmp_path)

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "readme.md").write_text("nothing here")
        with pytest.raises(DataError, match="must hold images"):
            load_images(tmp_path)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"no picture"),
            lambda path: path.write_bytes(path.read_bytes()[:-30]),
            lambda path: Image.fromarray(np.zeros((4, 4), np.uint16)).save(path),
        ],
        ids=["empty", "text", "cut short", "16 bits"],
    )
    def test_a_broken_picture_is_named(
        self, tmp_path: Path, damage: Callable[[Path], object]
    ) -> None:
        make_folder(tmp_path, ["a.png", "b.png"])
        damage(tmp_path / "b.png")
        with pytest.raises(DataError, match=r"b\.png"):
            load_images(tmp_path).images[0][:]

    def test_pictures_of_two_sizes_need_resize_and_crop(self, tmp_path: Path) -> None:
        save_picture(tmp_path / "a.png", 4, 6)
        save_picture(tmp_path / "b.png", 8, 10)
        with pytest.raises(DataError, match=r"4 x 6 x 3.*b\.png.*8 x 10 x 3.*--resize and --crop"):
            load_images(tmp_path).images[0][:]
        assert load_images(tmp_path, resize=4, crop=4).images[0][:].shape == (2, 4, 4, 3)

    def test_pictures_of_the_wrong_size_are_refused(self, tmp_path: Path) -> None:
        make_folder(tmp_path, ["a.png"])
        with pytest.raises(DataError, match=r"8 x any x 3.*a\.png.*4 x 4 x 3.*--resize"):
            load_images(tmp_path, input_shape=(8, None, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "`samples`"),
        ({"resize": 0}, "`resize`"),
        ({"crop": -1}, "`crop`"),
        ({"crop": 5}, "`crop`.*4 x 4 x 3.*--resize"),
        ({"std": 0}, "`std`"),
        ({"std": (1, -1, 1)}, "`std`"),
        ({"mean": (1, 2)}, "`mean`"),
        ({"mean": float("nan")}, "`mean`"),
        ({"mean": (1, 2, 3), "input_shape": (4, 4, 1)}, "one per channel.*1 channels"),
        ({"input_shape": (4,)}, "height, width, channels"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_images(make_folder(tmp_path, ["a.png"]), **options)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        load_images(tmp_path / "absent")
