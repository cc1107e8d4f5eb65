"""ModernBERT's configuration in transformers."""

from transformers import ModernBertConfig

from llmrecipe.recipe.networks.modern_bert import ModernBert


def configuration(network: ModernBert, vocab_size: int, end_of_text_id: int) -> ModernBertConfig:
    """The configuration of `ModernBertForMaskedLM` with `vocab_size` rows in its embedding.

    Special tokens are the tokenizer's own, not those of the published ModernBERT. It names no padding token, which
    transformers would never train: `end_of_text_id` is one of the text's.
    """
    names = {False: "full_attention", True: "sliding_attention"}
    kinds = [names[network.is_local(layer)] for layer in range(network.num_layers)]
    bases = {"full_attention": network.rope_theta, "sliding_attention": network.local_rope_theta}
    return ModernBertConfig(
        architectures=["ModernBertForMaskedLM"],
        vocab_size=vocab_size,
        hidden_size=network.hidden_size,
        intermediate_size=network.feed_forward_size,
        num_hidden_layers=network.num_layers,
        num_attention_heads=network.num_attention_heads,
        max_position_embeddings=network.max_position_embeddings,
        initializer_range=network.initializer_range,
        norm_eps=network.layer_norm_eps,
        layer_types=kinds,
        local_attention=network.local_attention or ModernBertConfig.local_attention,
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": float(base)} for kind, base in bases.items() if kind in kinds
        },
        eos_token_id=end_of_text_id,
        bos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        pad_token_id=None,
    )
