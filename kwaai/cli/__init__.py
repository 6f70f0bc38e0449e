"""The `kwaainet` program: what people type, one file per command. No logic that others need."""
