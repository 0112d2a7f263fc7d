"""The command `byhand`."""
