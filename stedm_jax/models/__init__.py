"""Networks only: one published network a file; parameter names follow the published ones."""
