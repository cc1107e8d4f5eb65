"""ModernBERT's weights, its masked-token head included."""

from llmrecipe.engines.models.table import Block, Weight, same
from llmrecipe.recipe.networks.modern_bert import ModernBert

HEAD = "model.head.pp_block."
"""What nanotron's names of the head begin with."""

EMBEDDING = "model.embeddings.tok_embeddings.weight"
"""transformers' name of the token embedding."""

_WHOLE = {
    "model.embeddings.pp_block.layer_norm.weight": "model.embeddings.norm.weight",
    f"{HEAD}final_norm.weight": "model.final_norm.weight",
    f"{HEAD}dense.weight": "head.dense.weight",
    f"{HEAD}layer_norm.weight": "head.norm.weight",
}


def weights(network: ModernBert) -> list[Weight]:
    """The table of a network's weights."""
    size, head_size, inner = network.hidden_size, network.head_size, network.feed_forward_size
    table = [
        Weight("model.embeddings.pp_block.token_embedding.weight", (Block(EMBEDDING),), cut=0, is_of_vocabulary=True),
        Weight("model.lm_head.pp_block.bias", (Block("decoder.bias"),), cut=0, is_of_vocabulary=True),
        *same(_WHOLE),
    ]
    for layer in range(network.num_layers):
        theirs, ours = f"model.layers.{layer}.", f"model.encoder.{layer}.pp_block."
        rotated, gated = f"{theirs}attn.Wqkv.weight", f"{theirs}mlp.Wi.weight"
        query_key_value = (
            Block(rotated, size, head_size=head_size),
            Block(rotated, size, head_size=head_size),
            Block(rotated, size),
        )
        table += [
            Weight(f"{ours}qkv_proj.weight", query_key_value, cut=0),
            Weight(f"{ours}gate_up_proj.weight", (Block(gated, inner), Block(gated, inner)), cut=0),
            *same({f"{ours}o_proj.weight": f"{theirs}attn.Wo.weight"}, cut=1),
            *same({f"{ours}down_proj.weight": f"{theirs}mlp.Wo.weight"}, cut=1),
            *same({f"{ours}feed_forward_norm.weight": f"{theirs}mlp_norm.weight"}),
        ]
        # The first layer has none: the embeddings end with a norm.
        if layer:
            table += same({f"{ours}attention_norm.weight": f"{theirs}attn_norm.weight"})
    return table
