"""Speed against the plain way, side by side in one run; see ``benchmarks.harness``."""
