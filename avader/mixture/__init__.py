"""The Gaussian mixture over the latent space (torch, numpy)."""
