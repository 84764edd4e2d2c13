"""An experiment as a graph of cells: what each reads and needs, what is done, and how the rest is
made."""
