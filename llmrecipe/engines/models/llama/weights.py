"""Llama's weights."""

from llmrecipe.engines.models.table import Block, Weight, same
from llmrecipe.recipe.networks.decoder import Decoder

EMBEDDING = "model.embed_tokens.weight"
"""transformers' name of the input embedding."""

OUTPUT = "lm_head.weight"
"""And of the output layer."""


def weights(network: Decoder) -> list[Weight]:
    """The table of a network's weights."""
    table = [
        Weight(
            "model.token_position_embeddings.pp_block.token_embedding.weight",
            (Block(EMBEDDING),),
            cut=0,
            is_of_vocabulary=True,
        ),
        *same({"model.final_layer_norm.pp_block.weight": "model.norm.weight"}),
    ]
    if not network.tie_word_embeddings:
        table.append(Weight("model.lm_head.pp_block.weight", (Block(OUTPUT),), cut=0, is_of_vocabulary=True))
    for layer in range(network.num_layers):
        theirs, ours = f"model.layers.{layer}.", f"model.decoder.{layer}.pp_block."
        gate, up = (Block(f"{theirs}mlp.{name}_proj.weight", network.feed_forward_size) for name in ("gate", "up"))
        norms = ("input_layernorm.weight", "post_attention_layernorm.weight")
        table += [
            query_key_value(network, layer, "weight"),
            Weight(f"{ours}mlp.gate_up_proj.weight", (gate, up), cut=0),
            *same({f"{ours}attn.o_proj.weight": f"{theirs}self_attn.o_proj.weight"}, cut=1),
            *same({f"{ours}mlp.down_proj.weight": f"{theirs}mlp.down_proj.weight"}, cut=1),
            *same({ours + name: theirs + name for name in norms}),
        ]
    return table


def query_key_value(network: Decoder, layer: int, kind: str) -> Weight:
    """The matrix of a layer's queries, keys and values (`weight`), or its `bias`."""
    theirs, size = f"model.layers.{layer}.self_attn.", network.head_size
    blocks = (
        Block(f"{theirs}q_proj.{kind}", network.num_attention_heads * size, head_size=size),
        Block(f"{theirs}k_proj.{kind}", network.num_key_value_heads * size, head_size=size),
        Block(f"{theirs}v_proj.{kind}", network.num_key_value_heads * size),
    )
    return Weight(f"model.decoder.{layer}.pp_block.attn.qkv_proj.{kind}", blocks, cut=0)
