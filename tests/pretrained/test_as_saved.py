import pytest
import torch
import transformers
from published import write_tokenizer

from llmrecipe import (
    Bert,
    CausalLM,
    Llama,
    Llama3RopeScaling,
    MaskedLM,
    Mistral,
    ModernBert,
    PretrainedModel,
    Qwen2,
    Qwen3,
    evolve,
)
from llmrecipe.pretrained.reading import read

ROWS = 40
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "max_position_embeddings": 32}
THEIRS = {**SIZES, "num_hidden_layers": 4, "vocab_size": ROWS}
OURS = {**SIZES, "num_layers": 4}
TOKENS = {f"{role}_token_id": 0 for role in ("pad", "bos", "eos", "cls", "sep")}
SCALING = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}

LLAMA = Llama(**OURS, num_key_value_heads=2, rms_norm_eps=1e-6)

CASES = {
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**THEIRS, num_key_value_heads=2),
        LLAMA,
    ),
    "llama tied": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**THEIRS, num_key_value_heads=2, tie_word_embeddings=True, head_dim=6),
        evolve(LLAMA, tie_word_embeddings=True, head_dim=6),
    ),
    "llama scaled": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **THEIRS,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "llama3", "rope_theta": 500_000.0, **SCALING},
        ),
        evolve(LLAMA, rope_theta=500_000.0, rope_scaling=Llama3RopeScaling(**SCALING)),
    ),
    "mistral": (
        transformers.MistralForCausalLM,
        transformers.MistralConfig(**THEIRS, num_key_value_heads=2, sliding_window=8),
        Mistral(**OURS, num_key_value_heads=2, rms_norm_eps=1e-6, sliding_window=8),
    ),
    "qwen2": (
        transformers.Qwen2ForCausalLM,
        transformers.Qwen2Config(**THEIRS, num_key_value_heads=2),
        Qwen2(**OURS, num_key_value_heads=2, rms_norm_eps=1e-6),
    ),
    "qwen3": (
        transformers.Qwen3ForCausalLM,
        transformers.Qwen3Config(**THEIRS, num_key_value_heads=2, head_dim=8),
        Qwen3(**OURS, num_key_value_heads=2, rms_norm_eps=1e-6, head_dim=8),
    ),
    "bert": (transformers.BertForMaskedLM, transformers.BertConfig(**THEIRS), Bert(**OURS)),
    "bert pretraining": (transformers.BertForPreTraining, transformers.BertConfig(**THEIRS), Bert(**OURS)),
    "modernbert": (
        transformers.ModernBertForMaskedLM,
        transformers.ModernBertConfig(**THEIRS, **TOKENS, local_attention=8),
        ModernBert(**OURS, local_attention=8),
    ),
}
"""Models of transformers, with the networks that they are."""


def saved(folder, cls, config, **options):
    torch.manual_seed(0)
    cls(config).save_pretrained(folder, **options)
    write_tokenizer(folder, ROWS)
    return folder


def reading(folder, **fields):
    return read(PretrainedModel(name="start", path="models/x", **fields), folder)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_what_transformers_saves_is_read_as_what_it_is(tmp_path, name, size):
    cls, config, network = CASES[name]
    found = reading(saved(tmp_path, cls, config, max_shard_size=size))
    assert found.faults == ()
    assert found.network == network
    kind = MaskedLM if network.reads_both_sides else CausalLM
    assert found.objective == kind(sequence_length=32)
    assert (found.rows, found.missing_head) == (ROWS, False)
    assert len(found.contents.files) > 1 or size == "5GB"


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_without_a_head_lacks_one_unless_it_is_tied(tmp_path, name):
    cls, config, network = CASES[name]
    found = reading(saved(tmp_path, getattr(transformers, cls.__name__.partition("For")[0] + "Model"), config))
    has_none = network.reads_both_sides or not network.tie_word_embeddings
    assert found.missing_head is has_none
    assert [field for field, _ in found.faults] == (["new_head"] if has_none else [])
    assert found.network == network


@pytest.mark.parametrize("name", CASES)
def test_weights_of_any_precision_are_fine(tmp_path, name):
    cls, config, _ = CASES[name]
    torch.manual_seed(0)
    cls(config).to(torch.bfloat16).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, ROWS)
    found = reading(tmp_path)
    assert found.faults == ()
    assert {tensor.dtype for tensor in found.contents.tensors.values()} == {"BF16"}


@pytest.mark.parametrize("cls", [transformers.GPT2LMHeadModel, transformers.BertForSequenceClassification])
def test_what_is_none_of_ours_is_refused_by_name(tmp_path, cls):
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2) if "GPT2" in cls.__name__ else CASES["bert"][1]
    ((field, reason),) = reading(saved(tmp_path, cls, config)).faults
    assert field == "path"
    assert f"architectures = {cls.__name__!r}, which isn't known; known are BertForMaskedLM, BertForPre" in reason
