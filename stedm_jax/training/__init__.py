"""How anything is learned: the only loop, state, sharding, checkpoints, optimizer, averages and
logging."""
