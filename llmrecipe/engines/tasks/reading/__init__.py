"""Files of examples to examples, by task."""
