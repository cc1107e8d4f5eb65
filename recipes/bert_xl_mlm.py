import attrs
from bert_mlm import bert_mlm

from llmrecipe import *


def bert_xl_mlm() -> Recipe:
    """`bert_mlm` with several masked spans in a sequence, and the token before each to be predicted as well."""
    objective = MultiMaskLM(sequence_length=32, masking=Spans(success_probability=0.5, max_length=3))
    return attrs.evolve(bert_mlm(), name="bert-xl-mlm", objective=objective)
