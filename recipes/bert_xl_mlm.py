"""A small BERT that also predicts what is before a masked span."""

from bert_mlm import bert_mlm, small_bert

from llmrecipe import MultiMaskLM, Recipe, evolve, masking


def bert_xl_mlm() -> Recipe:
    """`bert_mlm` with several masked spans in a sequence, and the token before each to be predicted as well."""
    objective = MultiMaskLM(sequence_length=32, masking=masking.Spans(success_probability=0.5, max_length=3))
    model = evolve(small_bert(), name="small-bert-xl", objective=objective)
    return evolve(bert_mlm(), name="bert-xl-mlm", models=(model,))
