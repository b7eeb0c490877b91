"""A "cpu" backend for Triton, in name: without one vLLM switches Triton off, and with it Model Runner V2.

They run in Triton's interpreter (TRITON_INTERPRET=1); nothing here ever compiles. tests/helpers/interpreted.py puts it
on the path.
"""
