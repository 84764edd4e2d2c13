"""What is learned: parameters, loss, evaluation and pictures of each trained thing."""
