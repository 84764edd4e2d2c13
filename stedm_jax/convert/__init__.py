"""Published weights in, our weights out: names by table, files from strangers without executing
them."""
