"""LiteRT, fastest on one observation of a small network: from PyTorch's layers to its files."""
