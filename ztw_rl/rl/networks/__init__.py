"""The networks of policies, as blocks that exits can hang on."""
