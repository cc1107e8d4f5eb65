import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import write_safetensors
from safetensors import safe_open
from safetensors.numpy import save_file

from llmrecipe.pretrained.contents import Damaged
from llmrecipe.pretrained.safetensors import header

SHAPES = {"a": (2, 3), "b": (), "c": (0, 4), "d": (5,)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def refusal(path):
    with pytest.raises(Damaged) as caught:
        header(path)
    return str(caught.value)


def rewritten(path, **entries):
    """The file with other entries in its header, and the same numbers."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.dumps({**json.loads(data[8 : 8 + length]), **entries}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_it_says_what_the_library_that_wrote_the_file_does(path):
    save_file({"x": np.ones((3, 4), np.float16), "y": np.arange(5), "z": np.ones((), np.float32)}, path)
    found = header(path)
    with safe_open(path, "numpy") as stored:
        for name, tensor in found.items():
            assert list(tensor.shape) == stored.get_slice(name).get_shape()
    assert {name: tensor.dtype for name, tensor in found.items()} == {"x": "F16", "y": "I64", "z": "F32"}
    data = path.read_bytes()
    tensor = found["y"]
    assert data[tensor.start : tensor.start + tensor.size] == np.arange(5).tobytes()


def test_a_file_of_nothing_is_one(path):
    write_safetensors(path, {})
    assert header(path) == {}


def test_a_file_that_is_cut_short_says_by_how_much(path):
    write_safetensors(path, SHAPES)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert "model.safetensors is cut short by 3 bytes" in refusal(path)
    path.write_bytes(whole[:40])
    assert "is cut short within its header, at 40 bytes; download it again" in refusal(path)
    path.write_bytes(whole[:7])
    assert "7 bytes, too few" in refusal(path)
    path.write_bytes(b"")
    assert "is empty" in refusal(path)


def test_bytes_that_no_tensor_owns_are_told(path):
    write_safetensors(path, SHAPES)
    path.write_bytes(path.read_bytes() + b"more")
    assert "has 4 bytes that no tensor owns" in refusal(path)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]}, "overlaps|hole"),
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 24]}, "'a', 2×2 numbers of F32, 24 bytes"),
        ({"dtype": "Q99", "shape": [2, 3], "data_offsets": [0, 24]}, "'a' the dtype 'Q99', which safetensors doesn't"),
        ({"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}, "'a' no shape or no offsets"),
        ({"dtype": "F32", "shape": "2", "data_offsets": [0, 24]}, "'a' no shape or no offsets"),
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [0]}, "'a' no shape or no offsets"),
        ({"dtype": "F32", "shape": [2, True], "data_offsets": [0, 24]}, "'a' no shape or no offsets"),
        ({"dtype": ["F32"], "shape": [], "data_offsets": [0, 24]}, r"the dtype \['F32'\]"),
        (["F32"], "says of 'a' nothing that can be read"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(path, entry, reason):
    write_safetensors(path, SHAPES)
    rewritten(path, a=entry)
    with pytest.raises(Damaged, match=reason):
        header(path)


def test_what_overlaps_and_what_leaves_a_hole_is_told_apart(path):
    write_safetensors(path, {"a": (2,), "b": (2,)})
    rewritten(path, b={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]})
    assert "puts 'b' at byte 4, which overlaps with the tensor before it" in refusal(path)
    rewritten(path, b={"dtype": "F32", "shape": [2], "data_offsets": [12, 20]})
    assert "puts 'b' at byte 12, which leaves a hole from byte 8" in refusal(path)


def test_what_is_no_safetensors_file_is_told(path, tmp_path):
    path.write_bytes(b"PK\x03\x04\x00\x00\x08\x08" + b"pytorch_model" * 9)
    assert "is no safetensors file: its first 8 bytes are no length" in refusal(path)
    for text in (b"[1, 2]", b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        assert "is no safetensors file: its header is" in refusal(path)
    assert "model.safetensors can't be read: Is a directory" in refusal_of_folder(tmp_path)


def refusal_of_folder(tmp_path):
    (tmp_path / "inner/model.safetensors").mkdir(parents=True)
    return refusal(tmp_path / "inner/model.safetensors")


def test_a_pointer_of_git_lfs_says_how_to_fetch_the_file(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert refusal(path) == (
        "model.safetensors is a pointer of Git LFS in place of the file; `git lfs pull` in its repository fetches it"
    )


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    try_to_read(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)

_ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F4", "BOOL"]) | _JSON,
        "shape": st.lists(st.integers(-1, 2**64), max_size=3) | _JSON,
        "data_offsets": st.lists(st.integers(-1, 2**64), max_size=3) | _JSON,
    },
)


@given(
    described=st.dictionaries(st.text(max_size=3), _ENTRIES | _JSON, max_size=3) | _JSON, rest=st.binary(max_size=20)
)
def test_any_header_is_read_or_refused(tmp_path_factory, described, rest):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    text = json.dumps(described).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    try_to_read(path)


def try_to_read(path):
    try:
        found = header(path)
    except Damaged:
        return
    assert sum(tensor.size for tensor in found.values()) < path.stat().st_size
