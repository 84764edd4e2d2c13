"""The ground floor: files, locks, checksums, commands, text tables. Imports no other room."""
