"""BERT's weights, its masked-token head included."""

from llmrecipe.engines.models.table import Block, Weight, same
from llmrecipe.recipe.networks.bert import Bert

_EMBEDDINGS = "model.embeddings.pp_block."
HEAD = "model.head.pp_block."
"""What nanotron's names of the head begin with."""

EMBEDDING = "bert.embeddings.word_embeddings.weight"
"""transformers' name of the token embedding."""

OUTPUT_BIAS = "cls.predictions.bias"
"""And of the biases of the output layer."""

_WHOLE = {
    f"{_EMBEDDINGS}position_embedding.weight": "bert.embeddings.position_embeddings.weight",
    f"{_EMBEDDINGS}segment_embedding.weight": "bert.embeddings.token_type_embeddings.weight",
    f"{_EMBEDDINGS}layer_norm.weight": "bert.embeddings.LayerNorm.weight",
    f"{_EMBEDDINGS}layer_norm.bias": "bert.embeddings.LayerNorm.bias",
    f"{HEAD}dense.weight": "cls.predictions.transform.dense.weight",
    f"{HEAD}dense.bias": "cls.predictions.transform.dense.bias",
    f"{HEAD}layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    f"{HEAD}layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
}


def weights(network: Bert) -> list[Weight]:
    """The table of a network's weights."""
    table = [
        Weight(f"{_EMBEDDINGS}token_embedding.weight", (Block(EMBEDDING),), cut=0, is_of_vocabulary=True),
        Weight("model.lm_head.pp_block.bias", (Block(OUTPUT_BIAS),), cut=0, is_of_vocabulary=True),
        *same(_WHOLE),
    ]
    for layer in range(network.num_layers):
        theirs, ours = f"bert.encoder.layer.{layer}.", f"model.encoder.{layer}.pp_block."
        for kind in ("weight", "bias"):
            blocks = (
                Block(f"{theirs}attention.self.{name}.{kind}", network.hidden_size)
                for name in ("query", "key", "value")
            )
            # The bias of a layer that is cut along its inputs stays whole, with the first rank.
            inner = 1 if kind == "weight" else None
            table += [
                Weight(f"{ours}qkv_proj.{kind}", tuple(blocks), cut=0),
                *same({f"{ours}o_proj.{kind}": f"{theirs}attention.output.dense.{kind}"}, cut=inner),
                *same({f"{ours}attention_norm.{kind}": f"{theirs}attention.output.LayerNorm.{kind}"}),
                *same({f"{ours}up_proj.{kind}": f"{theirs}intermediate.dense.{kind}"}, cut=0),
                *same({f"{ours}down_proj.{kind}": f"{theirs}output.dense.{kind}"}, cut=inner),
                *same({f"{ours}output_norm.{kind}": f"{theirs}output.LayerNorm.{kind}"}),
            ]
    return table
