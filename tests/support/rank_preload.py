"""What the process that forks ranks imports before it does (see `forked_ranks`)."""

from llmrecipe.engines.finetuning.distillation import worker as _worker  # noqa: F401
from llmrecipe.engines.nanotron import worker  # noqa: F401
from llmrecipe.engines.nanotron.port import bootstrap

bootstrap.load("cpu")

from llmrecipe.engines.nanotron import trainer  # noqa: E402, F401
