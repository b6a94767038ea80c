"""The variational autoencoder with a mixture prior (torch)."""
