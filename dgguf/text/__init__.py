"""Text in and out: the tokenizer of the file, its chat template, an answer's thoughts and text."""
