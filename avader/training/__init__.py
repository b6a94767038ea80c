"""The training loop and its state (plain torch)."""
