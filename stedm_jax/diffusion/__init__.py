"""The mathematics of diffusion: schedule, parameterisations, losses, guidance, samplers."""
