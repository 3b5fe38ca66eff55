"""Whether a model file is whole, and whether the model answers as it should."""
