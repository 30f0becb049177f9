"""One module per command; each has ``main(arguments) -> exit code`` and a tyro dataclass."""
