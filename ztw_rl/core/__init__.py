"""Early exit on any sequential network: needs torch, and knows nothing of Atari or images."""
