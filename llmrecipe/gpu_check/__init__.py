"""Whether llmrecipe works on a GPU, and how fast: `python -m llmrecipe.gpu_check`, ten minutes, without a network."""
