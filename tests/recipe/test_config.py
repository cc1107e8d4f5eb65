"""What a `config.json` says of a network: all of it is read, changes nothing, or is refused by name."""

import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import NETWORKS, networks
from transformers import AutoConfig, PretrainedConfig

from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.pretrained.network import network_of
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.decoder import Llama3RopeScaling
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.mistral import Mistral
from llmrecipe.recipe.networks.modern_bert import ModernBert
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.networks.qwen2 import Qwen2
from llmrecipe.recipe.networks.qwen3 import Qwen3

families = pytest.mark.parametrize("family", list(dict.fromkeys(NETWORKS)), ids=lambda family: family.tag)

VOCAB_SIZE = 100


def read(text: dict[str, Any]) -> tuple[Network, list[str]]:
    """The network that this describes, and what is wrong."""
    config = Config(text)
    family = next(family for family in NETWORKS if family.tag == config.model_type)
    network = family.from_config(config)
    return network, [*config.faults, *config.unread()]


def written(network: Network) -> dict[str, Any]:
    """The `config.json` that transformers writes of it."""
    config = architecture_of(network).transformers_config(network, VOCAB_SIZE, 0)
    text = json.loads(config.to_json_string(use_diff=False))
    if "sliding_attention" not in (text.get("layer_types") or ()):
        # A window that no layer has.
        text.pop("local_attention", None)
    return text


def of_before(text: dict[str, Any]) -> dict[str, Any]:
    """The same as transformers wrote it before its fifth version."""
    older = {key: value for key, value in text.items() if key not in ("dtype", "rope_parameters")}
    older |= {"torch_dtype": "float32"}
    rotary = text.get("rope_parameters")
    if text["model_type"] == "modernbert":
        for kind, key in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
            older |= {key: rotary[kind]["rope_theta"]}
    elif rotary:
        scaling = {key: value for key, value in rotary.items() if key not in ("rope_theta", "rope_type")}
        older |= {"rope_theta": rotary["rope_theta"]}
        older |= {"rope_scaling": {"type": rotary["rope_type"]} | scaling if scaling else None}
    return older


@families
@pytest.mark.parametrize("form", [dict, of_before], ids=["today", "before"])
def test_what_transformers_writes_of_a_network_is_read_as_the_same_network(family, form):
    @given(networks(family))
    def check(network: Network) -> None:
        text = written(network)
        found, faults = read(form(text))

        assert faults == []
        assert written(found) == text
        assert network_of(Config(form(text)))[0] == found

    check()


CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "bert": transformers.BertConfig,
    "modernbert": transformers.ModernBertConfig,
}


def example(family: type[Network]) -> dict[str, Any]:
    """A config.json of a family, with every key of its class in transformers."""
    options = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "architectures": None}
    return json.loads(CLASSES[family.tag](**options).to_json_string(use_diff=False))


@families
def test_a_missing_key_means_what_it_means_to_transformers(family):
    whole = example(family)
    for key in whole.keys() - {"model_type"}:
        rest = {name: value for name, value in whole.items() if name != key}
        if key == "num_hidden_layers":
            # It has a word for each layer.
            rest.pop("layer_types", None)
        found, faults = read(rest)
        if faults:
            # The sizes without which it isn't worth a guess.
            assert faults == [f"{key} is missing"]
            assert key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
        else:
            same = json.loads(CLASSES[family.tag](**rest).to_json_string(use_diff=False))
            assert found == read(same)[0], key


TOKENS = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"}
"""What `pretrained` compares with the tokenizer and the weights."""

DECIDE_NOTHING = TOKENS | {
    # How it is run.
    "use_cache",
    "deterministic_flash_attn",
    # Training's, and of the recipe.
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    # Of classifiers, and of what training ignores.
    "classifier_dropout",
    "classifier_pooling",
    "sparse_pred_ignore_index",
    # Without `use_sliding_window`.
    "max_window_layers",
}


@families
def test_no_key_of_a_class_in_transformers_is_passed_over(family):
    declared = {key for key in vars(CLASSES[family.tag])["__annotations__"] if not key.startswith("_")}
    assert {"hidden_size", "num_attention_heads"} <= declared
    decide_nothing = DECIDE_NOTHING | ({"sliding_window"} if family in (Qwen2, Qwen3) else set())
    for key in declared - decide_nothing - vars(PretrainedConfig).keys():
        for strange in ("strange", ["strange"], {"strange": 1}, -1.5):
            faults = read(example(family) | {key: strange})[1]
            assert any(fault.startswith(key) for fault in faults), (key, strange)


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        (Llama, {"attention_bias": True}, "attention_bias = True, which this network doesn't have"),
        (Llama, {"mlp_bias": True}, "mlp_bias = True"),
        (Llama, {"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        (Llama, {"hidden_act": "gelu"}, "hidden_act = 'gelu': the feed-forward layer is a SwiGLU"),
        (Llama, {"sliding_window": 4096}, "sliding_window = 4096"),
        (Llama, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        (Llama, {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        (Llama, {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 2]}}, "mrope_section = "),
        (Llama, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type = 'linear': known are"),
        (Llama, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type = 'dynamic'"),
        (Llama, {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters.rope_type = 'yarn'"),
        (Llama, {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type = 'longrope'"),
        (
            Llama,
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
            "rope_scaling.high_freq_factor is missing",
        ),
        (Llama, {"rope_scaling": 2.0}, "rope_scaling = 2.0 is no mapping"),
        (Llama, {"num_local_experts": 8}, "num_local_experts = 8"),
        (Mistral, {"layer_types": ["sliding_attention"] * 4}, "layer_types = "),
        (Mistral, {"sliding_window": "wide"}, "sliding_window = 'wide' is no number above 0"),
        (Qwen2, {"use_sliding_window": True}, "use_sliding_window = True: all layers read the whole sequence"),
        (Qwen2, {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layer_types = ['sliding_attention']"),
        (Qwen2, {"use_mrope": True}, "use_mrope = True"),
        (Qwen3, {"attention_bias": True}, "attention_bias = True"),
        (Qwen3, {"num_experts": 128}, "num_experts = 128"),
        (Bert, {"is_decoder": True}, "is_decoder = True"),
        (Bert, {"add_cross_attention": True}, "add_cross_attention = True"),
        (Bert, {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        (Bert, {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new': the feed-forward layer's function is the exact"),
        (Bert, {"tie_word_embeddings": False}, "tie_word_embeddings = False: the output layer shares"),
        (Bert, {"embedding_size": 128}, "embedding_size = 128"),
        (ModernBert, {"norm_bias": True}, "norm_bias = True"),
        (ModernBert, {"decoder_bias": False}, "decoder_bias = False"),
        (
            ModernBert,
            {"layer_types": ["sliding_attention", "full_attention"] * 2},
            "layer_types = ['sliding_attention'",
        ),
        (
            ModernBert,
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "full_attention.rope_type = 'yarn'",
        ),
        (ModernBert, {"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters.rope_theta = 5.0, which isn't known"),
        (ModernBert, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling = "),
    ],
    ids=str,
)
def test_what_a_network_lacks_is_refused_by_name(family, changes, told):
    faults = read(example(family) | changes)[1]
    assert len(faults) == 1
    assert told in faults[0]
    assert network_of(Config(example(family) | changes)) == (None, [f"config.json: {faults[0]}"])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "x"]), inner, max_size=2),
    max_leaves=4,
)


@families
def test_whatever_a_file_says_is_a_network_or_faults(family):
    whole = example(family)
    keys = [*whole, "rope_scaling", "rope_theta", "global_rope_theta", "global_attn_every_n_layers"]

    @settings(max_examples=300)
    @given(st.dictionaries(st.sampled_from(keys), values, max_size=4))
    def check(changes: dict[str, Any]) -> None:
        network, faults = network_of(Config(whole | changes))
        assert (network is None) == bool(faults)

    check()


def of_decoder(kind: str, **sizes: Any) -> dict[str, Any]:
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0.dev0",
        "use_cache": True,
    } | sizes


LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
PUBLISHED = {
    "Llama-3.1-8B": of_decoder(
        "llama",
        attention_bias=False,
        bos_token_id=128000,
        eos_token_id=128001,
        hidden_size=4096,
        intermediate_size=14336,
        max_position_embeddings=131072,
        mlp_bias=False,
        num_attention_heads=32,
        num_hidden_layers=32,
        num_key_value_heads=8,
        pretraining_tp=1,
        rope_scaling={"factor": 8.0, **LLAMA_3, "rope_type": "llama3"},
        rope_theta=500000.0,
        vocab_size=128256,
    ),
    "Llama-3.2-1B": of_decoder(
        "llama",
        attention_bias=False,
        bos_token_id=128000,
        eos_token_id=128001,
        head_dim=64,
        hidden_size=2048,
        intermediate_size=8192,
        max_position_embeddings=131072,
        mlp_bias=False,
        num_attention_heads=32,
        num_hidden_layers=16,
        num_key_value_heads=8,
        pretraining_tp=1,
        rope_scaling={"factor": 32.0, **LLAMA_3, "rope_type": "llama3"},
        rope_theta=500000.0,
        tie_word_embeddings=True,
        vocab_size=128256,
    ),
    "Mistral-7B-v0.1": of_decoder(
        "mistral",
        bos_token_id=1,
        eos_token_id=2,
        hidden_size=4096,
        intermediate_size=14336,
        max_position_embeddings=32768,
        num_attention_heads=32,
        num_hidden_layers=32,
        num_key_value_heads=8,
        rope_theta=10000.0,
        sliding_window=4096,
        vocab_size=32000,
    ),
    "Mistral-7B-v0.3": of_decoder(
        "mistral",
        bos_token_id=1,
        eos_token_id=2,
        hidden_size=4096,
        intermediate_size=14336,
        max_position_embeddings=32768,
        num_attention_heads=32,
        num_hidden_layers=32,
        num_key_value_heads=8,
        rope_theta=1000000.0,
        sliding_window=None,
        vocab_size=32768,
    ),
    "Qwen2.5-0.5B": of_decoder(
        "qwen2",
        bos_token_id=151643,
        eos_token_id=151643,
        hidden_size=896,
        intermediate_size=4864,
        max_position_embeddings=32768,
        max_window_layers=24,
        num_attention_heads=14,
        num_hidden_layers=24,
        num_key_value_heads=2,
        rms_norm_eps=1e-06,
        rope_theta=1000000.0,
        sliding_window=32768,
        tie_word_embeddings=True,
        use_mrope=False,
        use_sliding_window=False,
        vocab_size=151936,
    ),
    "Qwen3-0.6B": of_decoder(
        "qwen3",
        attention_bias=False,
        bos_token_id=151643,
        eos_token_id=151645,
        head_dim=128,
        hidden_size=1024,
        intermediate_size=3072,
        max_position_embeddings=40960,
        max_window_layers=28,
        num_attention_heads=16,
        num_hidden_layers=28,
        num_key_value_heads=8,
        rms_norm_eps=1e-06,
        rope_scaling=None,
        rope_theta=1000000,
        sliding_window=None,
        tie_word_embeddings=True,
        use_sliding_window=False,
        vocab_size=151936,
    ),
    "SmolLM2-135M": of_decoder(
        "llama",
        attention_bias=False,
        bos_token_id=0,
        eos_token_id=0,
        hidden_size=576,
        initializer_range=0.041666666666666664,
        intermediate_size=1536,
        is_llama_config=True,
        max_position_embeddings=8192,
        mlp_bias=False,
        num_attention_heads=9,
        num_hidden_layers=30,
        num_key_value_heads=3,
        pretraining_tp=1,
        rope_interleaved=False,
        rope_scaling=None,
        rope_theta=100000,
        tie_word_embeddings=True,
        vocab_size=49152,
    ),
    "bert-base-uncased": {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 30522,
    },
    "ModernBERT-base": {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 50281,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": 50281,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "eos_token_id": 50282,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "gradient_checkpointing": False,
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": 1152,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "pad_token_id": 50283,
        "position_embedding_type": "absolute",
        "sep_token_id": 50282,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.47.0.dev0",
        "vocab_size": 50368,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read_as_networks_of_their_size(name):
    text = PUBLISHED[name]
    network, faults = network_of(Config(text))
    assert faults == []
    architecture = architecture_of(network)
    assert text["architectures"] == [architecture.transformers_class.__name__]

    config = AutoConfig.for_model(**text)
    with torch.device("meta"):
        published = architecture.transformers_class(config)
        ours = architecture.transformers_class(architecture.transformers_config(network, text["vocab_size"], 0))
    assert network.num_parameters(text["vocab_size"]) == published.num_parameters()
    shapes = [{key: tuple(weight.shape) for key, weight in model.state_dict().items()} for model in (ours, published)]
    assert shapes[0] == shapes[1]


def test_published_files_keep_their_windows_their_heads_and_their_positions():
    read = {name: network_of(Config(text))[0] for name, text in PUBLISHED.items()}

    assert read["Llama-3.1-8B"].rope_scaling == Llama3RopeScaling(factor=8.0)
    assert (read["Mistral-7B-v0.1"].sliding_window, read["Mistral-7B-v0.3"].sliding_window) == (4096, None)
    assert (read["Qwen3-0.6B"].head_dim, read["Qwen2.5-0.5B"].head_dim) == (128, None)
    assert read["bert-base-uncased"].type_vocab_size == 2
    modern = read["ModernBERT-base"]
    assert (modern.local_attention, modern.rope_theta, modern.local_rope_theta) == (128, 160_000.0, 10_000.0)
    assert [layer for layer in range(22) if not modern.is_local(layer)] == list(range(0, 22, 3))
