"""GGUF files in transformers' terms; their numbers are expanded by the package gguf, which this doesn't need.

Names of keys and tensors are llama.cpp's (`gguf-py/gguf/constants.py`).
"""

import importlib.util
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrecipe.pretrained.contents import Contents, Damaged, Tensor, Tokens
from llmrecipe.pretrained.gguf_header import Array, Header, header

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""transformers' classes by llama.cpp's architectures; a Mistral is of llama's."""

_REQUIRED = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""Keys of `config.json` by llama.cpp's, whose names begin with the architecture's."""

_OPTIONAL = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.factor": (1,),
    "rope.scaling.finetuned": (False,),
    "rope.scaling.type": ("none",),
    "tensor_data_layout": ("Meta AI original pth",),
}
"""Other keys, with the values that change nothing."""

_OF_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

_TOKENS, _END = "tokenizer.ggml.tokens", "tokenizer.ggml.eos_token_id"

PRE_TOKENIZERS = ("gpt-2", "smollm", "llama-bpe", "qwen2")
"""By llama.cpp's names (`llama-vocab.cpp`), the ways to split a text into words that are known here."""

_ELSE = "use the model's files in the transformers format"


def contents_of(place: Path) -> Contents:
    """What is in a GGUF file, with everything that is wrong with it."""
    try:
        found = header(place)
    except Damaged as error:
        return Contents({}, {}, (place.name,), None, (str(error),))
    tensors = {_own_name(name): tensor for name, tensor in found.tensors.items()}
    faults = [*_of_another_kind(found)] or [*_faults(found), *_of_tokens(found)]
    config = {} if faults else _config(found, tensors)
    named = tuple(f"{place.name} {fault}" for fault in faults)
    return Contents(config, tensors, (place.name,), _tokens(found), named)


def _of_another_kind(found: Header) -> Iterator[str]:
    """Why all else would only confuse: it is no model of a family that is known."""
    kind, architecture = found.values.get("general.type", "model"), found.values.get("general.architecture")
    parts = found.values.get("split.count", 1)
    if kind != "model":
        yield f"holds no model, but {kind!r} (general.type)"
    elif parts != 1:
        yield f"is one of {parts} parts; merge them: llama-gguf-split --merge"
    elif architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        yield f"is of the architecture {architecture!r}; known are {known}, which Mistral's files name llama"
    elif importlib.util.find_spec("gguf") is None:
        yield "is expanded by the package gguf, which isn't installed; `pip install 'llmrecipe[gguf]'`"


def _faults(found: Header) -> Iterator[str]:
    prefix, known = f"{found.values['general.architecture']}.", _own(found)
    for key, name in {**_REQUIRED, **_OPTIONAL}.items():
        value = known.get(key)
        if value is None and key in _REQUIRED:
            yield f"lacks {prefix}{key}, its {name}"
        elif isinstance(value, Array):
            yield f"has a {prefix}{key} for each layer, and here all layers are alike; {_ELSE}"
    neutral = _NEUTRAL | dict.fromkeys(("rope.dimension_count", "attention.value_length"), (_head_size(known),))
    for key, value in known.items():
        if key not in _REQUIRED and key not in _OPTIONAL and value not in neutral.get(key, ()):
            yield f"has {prefix}{key} = {value!r}, which this network doesn't have"
    if "rope_freqs.weight" in found.tensors:
        yield f"has rope_freqs.weight, Llama 3.1's rotary frequencies, without what they are made from; {_ELSE}"


def _of_tokens(found: Header) -> Iterator[str]:
    kind = found.values.get("tokenizer.ggml.model")
    if not isinstance(found.values.get(_TOKENS), Array):
        yield f"has no tokenizer ({_TOKENS}); {_ELSE}"
    elif kind not in ("gpt2", "llama"):
        yield f"has a tokenizer of the kind {kind!r}; known are 'gpt2' and 'llama': {_ELSE}"
    elif kind == "gpt2":
        split = found.values.get("tokenizer.ggml.pre", "default")
        if split not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            yield f"has a tokenizer that splits texts by {split!r} (tokenizer.ggml.pre); known are {known}: {_ELSE}"
        if not isinstance(found.values.get("tokenizer.ggml.merges"), Array):
            yield f"has a tokenizer without merges (tokenizer.ggml.merges); {_ELSE}"


def _config(found: Header, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The `config.json` of the same model, with what llama.cpp takes where a key is missing."""
    architecture = found.values["general.architecture"]
    known = {key: _rounded(value) for key, value in _own(found).items()}
    embedding = tensors.get("model.embed_tokens.weight")
    config = {
        "architectures": [_ARCHITECTURES[architecture]],
        "model_type": architecture,
        "num_key_value_heads": known["attention.head_count"],
        "head_dim": _head_size(known),
        "rope_theta": 10_000.0,
        "vocab_size": embedding.shape[0] if embedding is not None and embedding.shape else 0,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    return config | {name: known[key] for key, name in {**_REQUIRED, **_OPTIONAL}.items() if key in known}


def _own(found: Header) -> dict[str, Any]:
    """Values by the keys that begin with the architecture's name, without it."""
    prefix = f"{found.values['general.architecture']}."
    return {key.removeprefix(prefix): value for key, value in found.values.items() if key.startswith(prefix)}


def _head_size(known: dict[str, Any]) -> Any:
    size, width, heads = (
        known.get(key) for key in ("attention.key_length", "embedding_length", "attention.head_count")
    )
    if size is None and type(width) is type(heads) is int and heads > 0:
        return width // heads
    return size


def _rounded(value: Any) -> Any:
    """A float32 as it was written: 1e-05 in place of 9.999999747378752e-06."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((float(text) for text in texts if _in_32_bits(float(text)) == _in_32_bits(value)), value)


def _in_32_bits(value: float) -> bytes:
    try:
        return struct.pack("f", value)
    except OverflowError:
        return struct.pack("d", value)


def _tokens(found: Header) -> Tokens | None:
    tokens, end = found.values.get(_TOKENS), found.values.get(_END)
    if not isinstance(tokens, Array):
        return None
    return Tokens(tokens.length, type(end) is int and 0 <= end < tokens.length, False)


def _own_name(name: str) -> str:
    """transformers' name of a tensor; its own if there is none."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer is not None and layer[2] in _OF_LAYERS:
        return f"model.layers.{layer[1]}.{_OF_LAYERS[layer[2]]}.{layer[3]}"
    whole, _, kind = name.rpartition(".")
    return f"{_WHOLE[whole]}.{kind}" if whole in _WHOLE else name
