"""LiteRT, whose XNNPACK is the fastest on small networks: from PyTorch's layers to its files."""
