"""The command `avflow`: main, its options, and the commands that are a program of their own (bench, doctor)."""
