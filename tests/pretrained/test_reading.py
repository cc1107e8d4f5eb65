import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import (
    BERT,
    GGUF,
    HEADS,
    INNER,
    LAYERS,
    LLAMA,
    POSITIONS,
    ROWS,
    WIDTH,
    bert_weights,
    change_config,
    llama_weights,
    write_folder,
    write_gguf,
    write_safetensors,
    write_shards,
    write_tokenizer,
)

from llmrecipe import Bert, CausalLM, Llama, MaskedLM, Mistral, PretrainedModel, evolve
from llmrecipe.pretrained.network import network_of
from llmrecipe.pretrained.reading import read
from llmrecipe.recipe.networks.config import Config

SHAPE = {"num_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_size": WIDTH}
NETWORK = Llama(**SHAPE, num_key_value_heads=2, max_position_embeddings=POSITIONS)
ENCODER = Bert(**SHAPE, max_position_embeddings=POSITIONS)


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model")


@pytest.fixture
def encoder(tmp_path):
    folder = write_folder(tmp_path / "encoder", BERT, bert_weights())
    write_tokenizer(folder, ends={"sep_token": "[SEP]"})
    return folder


def reading(folder, **fields):
    return read(PretrainedModel(name="start", path="models/x", **fields), folder)


def faults(folder, **fields):
    return dict(reading(folder, **fields).faults)


def fault(folder, **fields):
    """The only thing that is wrong, of the files."""
    ((field, reason),) = reading(folder, **fields).faults
    assert field == "path"
    assert reason.startswith("models/x: ")
    return reason.removeprefix("models/x: ")


def test_a_decoder_is_what_its_files_say(folder):
    found = reading(folder)
    assert found.faults == ()
    assert found.network == NETWORK
    assert found.objective == CausalLM(sequence_length=POSITIONS)
    assert (found.rows, found.missing_head, found.notes) == (ROWS, False, ())


def test_an_encoder_is_what_its_files_say_and_what_it_loses_is_told(encoder):
    found = reading(encoder)
    assert found.faults == ()
    assert found.network == ENCODER
    assert found.objective == MaskedLM(sequence_length=POSITIONS)
    assert (found.rows, found.missing_head) == (ROWS, False)
    assert found.notes == (
        "the pooler was left out: nothing here reads it",
        "the next-sentence head was left out: nothing here reads it",
    )


@pytest.mark.parametrize("change", [{"legacy": True}, {"prefix": ""}])
def test_older_names_of_weights_are_known(encoder, change):
    write_safetensors(encoder / "model.safetensors", bert_weights(**change))
    assert reading(encoder).faults == ()


def test_numbers_that_networks_know_by_themselves_may_be_there(encoder):
    extra = {"bert.embeddings.position_ids": (1, POSITIONS)}
    write_safetensors(
        encoder / "model.safetensors", bert_weights() | extra, dtypes={"bert.embeddings.position_ids": "I64"}
    )
    assert reading(encoder).faults == ()


def test_long_models_are_measured_on_shorter_sequences(folder):
    change_config(folder, max_position_embeddings=8192)
    assert reading(folder).objective == CausalLM(sequence_length=1024)


def test_shards_are_read_as_one_file_is(folder, tmp_path):
    write_shards(tmp_path / "sharded", parts=3)
    assert reading(tmp_path / "sharded").network == reading(folder).network


def test_a_gguf_file_is_what_its_folder_would_be(folder, tmp_path):
    found = reading(write_gguf(tmp_path / "model.gguf"))
    assert found.faults == ()
    assert found.network == evolve(NETWORK, rope_theta=50_000.0)
    assert found.objective == CausalLM(sequence_length=POSITIONS)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architectures = 'GemmaForCausalLM', which isn't known; known are"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "'LlamaForSequenceClassification', which isn't known"),
        ({"architectures": None, "model_type": "gpt2"}, "names no architecture, and its model_type is 'gpt2'; known"),
        ({"model_type": "mistral"}, "model_type is 'mistral', by which transformers goes, and its architecture is"),
        ({"model_type": None}, "model_type is missing, by which transformers goes, and its architecture is Llama"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "asks for code of its own (auto_map), which is never run"),
        ({"attention_bias": True}, "attention_bias = True, which this network doesn't have"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"sliding_window": 4096}, "sliding_window = 4096"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type = 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling.rope_type = 'linear'"),
        ({"rope_scaling": LLAMA_3 | {"low_freq_factor": None}}, "rope_scaling.low_freq_factor is missing"),
        ({"rope_scaling": LLAMA_3 | {"low_freq_factor": 9.0}}, "rope_scaling.high_freq_factor: 4 must be more than"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear' is no mapping"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"num_local_experts": 8}, "num_local_experts = 8"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "16"}, "hidden_size = '16' is no number"),
        ({"hidden_size": 16.5}, "hidden_size = 16.5 is no whole number"),
        ({"hidden_size": 0}, "hidden_size = 0 is no number above 0"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 is no number above 0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide num_attention_heads = 4"),
        ({"num_hidden_layers": 1e400}, "num_hidden_layers = inf is no number"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes' is neither true nor false"),
    ],
)
def test_what_its_configuration_says_and_we_do_not_honour_is_named(folder, changes, reason):
    change_config(folder, **changes)
    found = fault(folder)
    assert found.startswith("config.json: ")
    assert reason in found
    assert reading(folder).network is None


def test_by_its_model_type_a_family_is_known_without_architectures(folder):
    change_config(folder, architectures=None)
    assert reading(folder).network == NETWORK


def test_all_that_is_wrong_with_a_configuration_is_said_at_once(folder):
    change_config(folder, attention_bias=True, attention_dropout=0.1, hidden_act="relu")
    assert len(reading(folder).faults) == 3


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

_KEYS = [*LLAMA, *BERT, "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "head_dim", "auto_map"]
_KEYS += ["local_attention", "global_attn_every_n_layers", "norm_eps", "global_rope_theta", "quantization_config"]
_ROPE = st.dictionaries(
    st.sampled_from(
        ["rope_type", "type", "rope_theta", "factor", "low_freq_factor", "full_attention", "high_freq_factor"]
    ),
    _JSON | st.sampled_from(["llama3", "default"]),
)
_TYPES = st.sampled_from(["llama", "mistral", "qwen2", "qwen3", "bert", "modernbert"])


@given(
    base=st.sampled_from([LLAMA, BERT]),
    changes=st.dictionaries(st.sampled_from(_KEYS), _JSON | _ROPE, max_size=4),
    model_type=_TYPES | st.none(),
)
def test_any_configuration_is_read_or_refused(base, changes, model_type):
    own = base if model_type is None else {**base, "model_type": model_type, "architectures": None}
    network, wrong = network_of(Config({**own, **changes}))
    assert (network is None) == bool(wrong)


def test_an_embedding_of_other_rows_than_the_vocabulary_is_told(folder):
    change_config(folder, vocab_size=ROWS - 8)
    assert fault(folder) == "its embedding has 40 rows, and config.json says vocab_size = 32"


def test_missing_weights_are_named(folder):
    shapes = llama_weights()
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        del shapes[name]
    write_safetensors(folder / "model.safetensors", shapes)
    assert (
        "lacks 'model.layers.1.mlp.up_proj.weight', 'model.norm.weight', weights of the Llama of this config.json"
        in fault(folder)
    )


def test_weights_that_the_network_has_not_are_named(folder):
    extra = {f"model.layers.{layer}.self_attn.q_proj.bias": (WIDTH,) for layer in range(2)}
    write_safetensors(folder / "model.safetensors", llama_weights() | extra)
    assert "holds 'model.layers.0.self_attn.q_proj.bias', 'model.layers.1.self_attn.q_proj.bias'" in fault(folder)


def test_layers_without_end_are_refused_at_once(folder):
    change_config(folder, num_hidden_layers=10_000_000)
    assert fault(folder) == "config.json: num_layers must be between 1 and 10,000, got 10000000"
    change_config(folder, num_hidden_layers=10_000)
    assert "lacks 'model.layers.2.input_layernorm.weight'" in fault(folder)


def test_of_damaged_shards_nothing_else_is_said(tmp_path):
    write_shards(tmp_path / "sharded")
    (tmp_path / "sharded/model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in fault(tmp_path / "sharded")


@pytest.mark.parametrize(("split", "named"), [("deepseek-llm", "'deepseek-llm'"), (None, "'default'")])
def test_words_that_a_gguf_file_splits_in_another_way_are_refused_before_anything_runs(tmp_path, split, named):
    found = fault(write_gguf(tmp_path / "x.gguf", split=split))
    assert f"x.gguf has a tokenizer that splits texts by {named} (tokenizer.ggml.pre); known are gpt-2, smollm" in found


def test_what_a_gguf_file_says_is_told_with_its_name(tmp_path):
    found = fault(write_gguf(tmp_path / "x.gguf", keys=GGUF | {"attention.head_count_kv": 3}))
    assert found == "x.gguf: num_key_value_heads: 3 does not divide num_attention_heads = 4; use 1, 2 or 4"
    found = fault(write_gguf(tmp_path / "y.gguf", keys=GGUF | {"block_count": 1}))
    assert "which the Llama of this y.gguf doesn't have" in found


def test_a_layer_too_many_is_told(folder):
    change_config(folder, num_hidden_layers=LAYERS - 1)
    found = fault(folder)
    assert "holds 'model.layers.1.input_layernorm.weight'" in found
    assert "and 6 more, which the Llama of this config.json doesn't have" in found


def test_a_shape_that_disagrees_with_the_configuration_is_told(folder):
    change_config(folder, intermediate_size=INNER + 8)
    assert fault(folder) == (
        "holds 'model.layers.0.mlp.gate_proj.weight' of the shape (24, 16), and the Llama of this "
        "config.json has (32, 16), and 5 more differ"
    )


@pytest.mark.parametrize("dtype", ["I8", "F64", "U8"])
def test_numbers_that_networks_do_not_compute_with_are_refused(folder, dtype):
    write_safetensors(folder / "model.safetensors", llama_weights(), dtypes={"lm_head.weight": dtype})
    assert fault(folder) == f"holds 'lm_head.weight' as {dtype}; weights are read as F32, F16, BF16"


def test_a_weight_under_two_names_is_refused(encoder):
    extra = {"bert.embeddings.LayerNorm.gamma": (WIDTH,)}
    write_safetensors(encoder / "model.safetensors", bert_weights() | extra)
    assert "'bert.embeddings.LayerNorm.weight' twice" in fault(encoder)


def test_tied_weights_that_are_stored_twice_have_to_be_equal(folder):
    change_config(folder, tie_word_embeddings=True)
    assert reading(folder).faults == ()
    write_safetensors(folder / "model.safetensors", llama_weights(), values={"lm_head.weight": b"\0\0\x80\x3f"})
    assert fault(folder) == (
        "holds 'lm_head.weight' and 'model.embed_tokens.weight' with different values, and they are one weight "
        "by its tie_word_embeddings"
    )
    write_safetensors(folder / "model.safetensors", llama_weights(tied=True))
    assert reading(folder).faults == ()
    assert reading(folder).network == evolve(NETWORK, tie_word_embeddings=True)


def test_biases_of_the_output_layer_are_tied_as_well(encoder):
    extra = {"cls.predictions.decoder.bias": (ROWS,)}
    path = encoder / "model.safetensors"
    write_safetensors(path, bert_weights() | extra)
    assert reading(encoder).faults == ()
    write_safetensors(path, bert_weights() | extra, values={"cls.predictions.decoder.bias": b"\1"})
    assert "holds 'cls.predictions.decoder.bias' and 'cls.predictions.bias' with different values" in fault(encoder)


def test_a_missing_head_is_refused_unless_one_is_asked_for(tmp_path):
    config = BERT | {"architectures": ["BertModel"]}
    folder = write_folder(tmp_path / "x", config, bert_weights(head=False, prefix=""))
    assert faults(folder) == {
        "new_head": "False, and BertModel has no masked-token head there; new_head=True draws one"
    }
    found = reading(folder, new_head=True, seed=3)
    assert found.faults == ()
    assert found.missing_head
    assert found.notes == (
        "the pooler was left out: nothing here reads it",
        "as published it had no output head for text: one was drawn, with the seed 3",
    )


def test_a_new_head_is_refused_where_there_is_one(folder, encoder):
    assert faults(folder, new_head=True) == {"new_head": "True, and LlamaForCausalLM has its output head; leave it out"}
    reason = "True, and BertForMaskedLM has its masked-token head; leave it out"
    assert faults(encoder, new_head=True) == {"new_head": reason}


def test_a_decoder_may_lack_its_head_too(tmp_path):
    shapes = {name.removeprefix("model."): shape for name, shape in llama_weights(tied=True).items()}
    folder = write_folder(tmp_path / "x", LLAMA | {"architectures": ["LlamaModel"]}, shapes)
    assert "LlamaModel has no output head" in faults(folder)["new_head"]
    assert reading(folder, new_head=True).faults == ()
    # One that is the embedding is there.
    change_config(folder, tie_word_embeddings=True)
    found = reading(folder)
    assert (found.faults, found.missing_head) == ((), False)


def test_half_a_head_is_damaged(encoder):
    shapes = bert_weights()
    del shapes["cls.predictions.transform.dense.weight"]
    write_safetensors(encoder / "model.safetensors", shapes)
    assert "lacks 'cls.predictions.transform.dense.weight', weights of the Bert of" in fault(encoder)


def test_a_network_that_is_given_is_what_the_files_say(folder):
    assert reading(folder, network=NETWORK).faults == ()
    # That concerns training alone.
    padded = evolve(NETWORK, make_vocab_size_divisible_by=8)
    assert reading(folder, network=padded).faults == ()
    assert reading(folder, network=padded).network == padded
    other = evolve(NETWORK, hidden_size=32, rope_theta=1e6)
    assert faults(folder, network=other) == {
        "network": "is not what config.json says: hidden_size: 32 ≠ 16; rope_theta: 1000000.0 ≠ 10000.0; leave it out"
    }
    mistral = Mistral(**{f.alias: getattr(NETWORK, f.name) for f in attrs.fields(Llama)})
    assert "Mistral" in faults(folder, network=mistral)["network"]


def test_an_objective_that_is_given_has_to_fit(folder, encoder):
    given = CausalLM(sequence_length=8)
    assert reading(folder, objective=given).objective == given
    assert reading(folder, objective=given).faults == ()
    assert (
        "CausalLM predicts the next token, and a token of Bert reads those after it as well; use MaskedLM"
        in faults(encoder, objective=given)["objective"]
    )
    assert (
        "MaskedLM predicts masked tokens, and a token of Llama reads only those before it; use CausalLM"
        in faults(folder, objective=MaskedLM(sequence_length=8))["objective"]
    )
    reason = "33 is more than its max_position_embeddings = 32; use at most 32"
    assert faults(folder, objective=CausalLM(sequence_length=33)) == {"objective.sequence_length": reason}


def quantize(folder, **changes):
    change_config(folder, quantization_config={"quant_method": "compressed-tensors", **changes})


def test_quantized_weights_are_refused_unless_they_are_expanded(folder):
    quantize(folder)
    assert faults(folder) == {
        "dequantize": "False, and its weights are quantized as compressed-tensors (quantization_config); "
        "dequantize=True expands them, or use the model that it was made from"
    }
    shapes = {}
    for name, shape in llama_weights().items():
        if "proj" in name:
            module = name.removesuffix(".weight")
            shapes |= {f"{module}.weight_packed": (shape[0], 2), f"{module}.weight_scale": (shape[0], 1)}
            shapes |= {f"{module}.weight_shape": (2,)}
        else:
            shapes[name] = shape
    dtypes = {name: "I32" for name in shapes if "packed" in name} | {name: "I64" for name in shapes if "_shape" in name}
    write_safetensors(folder / "model.safetensors", shapes, dtypes=dtypes)
    found = reading(folder, dequantize=True)
    assert found.faults == ()
    assert found.network == NETWORK
    assert found.notes == ("its weights were expanded from I32, I64",)
    del shapes["model.layers.0.mlp.up_proj.weight_packed"]
    write_safetensors(folder / "model.safetensors", shapes, dtypes=dtypes)
    assert "lacks 'model.layers.0.mlp.up_proj.weight'" in fault(folder, dequantize=True)


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "awq", "fp8"])
def test_other_quantizations_are_refused_by_name(folder, method):
    quantize(folder, quant_method=method)
    reason = f"its weights are quantized as {method!r} (quantization_config), which can't be expanded here"
    assert reason in faults(folder)["path"]
    assert reason in faults(folder, dequantize=True)["dequantize"]


def test_what_is_not_quantized_is_not_expanded(folder, tmp_path):
    reason = "True, and its weights are not quantized; leave it out"
    assert faults(folder, dequantize=True) == {"dequantize": reason}
    reason = "True, and a GGUF file is always expanded; leave it out"
    assert faults(write_gguf(tmp_path / "x.gguf"), dequantize=True) == {"dequantize": reason}


def test_a_folder_without_a_tokenizer_says_how_to_make_one(folder):
    (folder / "tokenizer.json").unlink()
    found = fault(folder)
    assert found.startswith("tokenizer.json is missing; make it: python -c ")
    assert f"AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')" in found


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(folder, tmp_path):
    write_tokenizer(folder, ROWS, added=("<one>", "<more>"))
    assert fault(folder) == (
        "its tokenizer doesn't fit: it has 42 tokens, and the embedding 40 rows, so the last ones have none; use the "
        "tokenizer that the model was trained with"
    )
    write_tokenizer(folder, ROWS - 3)
    assert reading(folder).faults == ()
    assert "it has 41 tokens, and the embedding 40" in fault(write_gguf(tmp_path / "x.gguf", tokens=ROWS + 1))


def test_documents_need_a_token_that_ends_them(folder, encoder, tmp_path):
    write_tokenizer(folder, ends={"sep_token": "[SEP]"})
    assert "its tokenizer names no token that ends a text and that it has" in fault(folder)
    write_tokenizer(folder, ends={"eos_token": "<nowhere>"})
    assert "names no token that ends a text" in fault(folder)
    write_tokenizer(encoder, ends={"eos_token": "</s>"})
    assert reading(encoder).faults == ()
    write_tokenizer(encoder, ends={})
    assert "names no token that ends a text" in fault(encoder)
    assert "names no token that ends a text" in fault(write_gguf(tmp_path / "x.gguf", end=None))


def test_of_a_model_that_is_not_fetched_yet_the_configuration_is_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    asked = PretrainedModel(name="start", hub="owner/name", revision="0" * 40)
    found = read(asked, folder, is_whole=False)
    assert (found.faults, found.network, found.rows) == ((), NETWORK, ROWS)
    change_config(folder, architectures=["LlamaModel"])
    assert dict(read(asked, folder, is_whole=False).faults).keys() == {"new_head"}
    change_config(folder, architectures=["X"])
    ((field, reason),) = read(asked, folder, is_whole=False).faults
    assert (field, reason[:24]) == ("hub", "owner/name: config.json:")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["X"]
