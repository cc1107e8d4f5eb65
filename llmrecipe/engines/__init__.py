"""The only importers of the heavy libraries."""

from llmrecipe.engines.quiet import hide_unused_kernels

# Before the first of them is imported.
hide_unused_kernels()
