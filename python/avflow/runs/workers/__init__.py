"""Samples swept by several workers, each with a model of its own: on this machine, or on a Ray cluster.

dispatch.py hands samples out and gives those of a lost worker to another; a pool (processes.py, on_ray.py) starts the
workers and carries messages; worker.py is what each worker does. The rows of a sample are those of a run without
workers: a sample is swept alone in either.
"""
