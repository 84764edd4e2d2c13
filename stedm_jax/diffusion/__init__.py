"""The mathematics of diffusion: schedule, parameterizations, losses, guidance, samplers."""
