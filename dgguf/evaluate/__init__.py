"""What a model does on a text: importances for `quantize`, and what a quantization costs.

Both run pieces of the text through both of the network's passes, each canvas at several noise levels.
"""
