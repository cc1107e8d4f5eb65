"""What models are taught to do: the examples, what a model reads of them, and how good its answers are."""
