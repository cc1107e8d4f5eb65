"""Small models as somebody publishes them, written without torch: transformers folders, and GGUF files."""

import json
import math
from pathlib import Path

import gguf
import numpy as np

_SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I8": 1, "U8": 1, "I64": 8, "I32": 4}

ROWS, WIDTH, LAYERS, HEADS, INNER, POSITIONS = 40, 16, 2, 4, 24, 32

SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "vocab_size": ROWS,
}

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    **SHAPE,
}

BERT = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_act": "gelu", "type_vocab_size": 2, **SHAPE}

ENDS = {"eos_token": "</s>"}


def llama_weights(*, tied=False):
    """Shapes of the weights of `LLAMA`, as its files name them."""
    shapes = {"model.embed_tokens.weight": (ROWS, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (WIDTH,),
                "self_attn.q_proj": (WIDTH, WIDTH),
                "self_attn.k_proj": (WIDTH // 2, WIDTH),
                "self_attn.v_proj": (WIDTH // 2, WIDTH),
                "self_attn.o_proj": (WIDTH, WIDTH),
                "post_attention_layernorm": (WIDTH,),
                "mlp.gate_proj": (INNER, WIDTH),
                "mlp.up_proj": (INNER, WIDTH),
                "mlp.down_proj": (WIDTH, INNER),
            }.items()
        }
    return shapes if tied else {**shapes, "lm_head.weight": (ROWS, WIDTH)}


def bert_weights(*, head=True, prefix="bert.", legacy=False):
    """Shapes of the weights of `BERT`, with its pooler; without a head, files have no prefix."""
    weight, bias = ("gamma", "beta") if legacy else ("weight", "bias")

    def linear(name, outputs, inputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name):
        return {f"{name}.{weight}": (WIDTH,), f"{name}.{bias}": (WIDTH,)}

    shapes = {
        "embeddings.word_embeddings.weight": (ROWS, WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm("embeddings.LayerNorm"),
        **linear("pooler.dense", WIDTH, WIDTH),
    }
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{name}.attention.{part}", WIDTH, WIDTH)
        shapes |= norm(f"{name}.attention.output.LayerNorm") | norm(f"{name}.output.LayerNorm")
        shapes |= linear(f"{name}.intermediate.dense", INNER, WIDTH) | linear(f"{name}.output.dense", WIDTH, INNER)
    shapes = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    if head:
        shapes |= linear("cls.predictions.transform.dense", WIDTH, WIDTH) | norm("cls.predictions.transform.LayerNorm")
        shapes |= {"cls.predictions.bias": (ROWS,), **linear("cls.seq_relationship", 2, WIDTH)}
    return shapes


def write_safetensors(path, shapes, *, dtype="F32", dtypes=None, values=None):
    """Write a file of these weights, which are zeros, or the bytes given."""
    header, begin, body = {"__metadata__": {"format": "pt"}}, 0, []
    for name, shape in shapes.items():
        kind = (dtypes or {}).get(name, dtype)
        size = math.prod(shape) * _SIZES[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, begin + size]}
        body.append(((values or {}).get(name) or b"\0") * size)
        body[-1] = body[-1][:size]
        begin += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(body))


def write_tokenizer(folder, tokens=ROWS, *, ends=ENDS, added=()):
    """Write a tokenizer of so many tokens, the last of them `</s>` and `[SEP]`, and what `added` puts after them."""
    names = [f"t{index}" for index in range(tokens - 2)] + ["[SEP]", "</s>"]
    stored = {
        "model": {"type": "WordLevel", "vocab": {name: index for index, name in enumerate(names)}, "unk_token": "t0"},
        "added_tokens": [{"id": tokens + index, "content": name} for index, name in enumerate(added)],
    }
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_folder(folder, config=LLAMA, shapes=None, **options):
    """Write a whole model; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", llama_weights() if shapes is None else shapes, **options)
    write_tokenizer(folder)
    return folder


def change_config(folder, **changes):
    """Change keys of a model's configuration; those that are None are left out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def write_shards(folder, shapes=None, *, config=LLAMA, parts=2):
    """Write a whole model in several files; the index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    shapes = list((shapes or llama_weights()).items())
    index = {}
    for part in range(parts):
        name = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        own = dict(shapes[part::parts])
        write_safetensors(folder / name, own)
        index |= dict.fromkeys(own, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return index


GGUF = {
    "block_count": LAYERS,
    "context_length": POSITIONS,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 50_000.0,
    "rope.dimension_count": WIDTH // HEADS,
}


def gguf_weights(*, tied=False):
    """Shapes of the weights of a Llama, as GGUF files name them."""
    shapes = {"token_embd.weight": (ROWS, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (WIDTH,),
                "attn_q": (WIDTH, WIDTH),
                "attn_k": (WIDTH // 2, WIDTH),
                "attn_v": (WIDTH // 2, WIDTH),
                "attn_output": (WIDTH, WIDTH),
                "ffn_norm": (WIDTH,),
                "ffn_gate": (INNER, WIDTH),
                "ffn_up": (INNER, WIDTH),
                "ffn_down": (WIDTH, INNER),
            }.items()
        }
    return shapes if tied else {**shapes, "output.weight": (ROWS, WIDTH)}


def write_gguf(
    path, *, architecture="llama", keys=None, values=None, shapes=None, tokens=ROWS, end=ROWS - 1, split="gpt-2"
):
    """Write a GGUF file with these keys of its architecture, other values, and weights in float32; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (GGUF if keys is None else keys).items():
        _add(writer, f"{architecture}.{key}", value)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        if split is not None:
            writer.add_tokenizer_pre(split)
        writer.add_token_list([f"t{index}" for index in range(tokens)])
        writer.add_token_merges(["t 1"])
        if end is not None:
            writer.add_eos_token_id(end)
    for key, value in (values or {}).items():
        _add(writer, key, value)
    for name, shape in (gguf_weights() if shapes is None else shapes).items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)
