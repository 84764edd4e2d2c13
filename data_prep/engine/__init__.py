"""The engine under every packing command: one slide or image is one task, one part on disk, one
line of the report."""
