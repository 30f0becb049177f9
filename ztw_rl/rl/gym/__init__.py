"""Any gymnasium environment with discrete actions."""
