"""Model-free mathematics: what a sampler, a schedule or a seed does to a latent."""
