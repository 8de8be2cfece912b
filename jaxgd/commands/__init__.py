"""The commands: what each reads, does and prints."""
