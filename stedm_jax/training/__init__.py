"""How anything is learnt: the only loop, state, sharding, checkpoints, optimiser, EMA and
logging."""
