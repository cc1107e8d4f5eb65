"""BERT's configuration in transformers."""

from transformers import BertConfig

from llmrecipe.recipe.networks.bert import Bert


def configuration(network: Bert, vocab_size: int, end_of_text_id: int) -> BertConfig:
    """The configuration of `BertForMaskedLM` with `vocab_size` rows in its embedding.

    It names no padding token, which transformers would never train: `end_of_text_id` is one of the text's.
    """
    return BertConfig(
        architectures=["BertForMaskedLM"],
        vocab_size=vocab_size,
        hidden_size=network.hidden_size,
        intermediate_size=network.feed_forward_size,
        num_hidden_layers=network.num_layers,
        num_attention_heads=network.num_attention_heads,
        max_position_embeddings=network.max_position_embeddings,
        type_vocab_size=network.type_vocab_size,
        initializer_range=network.initializer_range,
        layer_norm_eps=network.layer_norm_eps,
        eos_token_id=end_of_text_id,
        pad_token_id=None,
    )
