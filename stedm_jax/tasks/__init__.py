"""What is learnt: parameters, loss, evaluation and pictures of each trained thing."""
