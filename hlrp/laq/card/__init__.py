"""The quality card of a latent action quantizer: whether its codes are worth training a policy on; see `report`."""
