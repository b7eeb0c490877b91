"""What a worker of a tiny run imports; warm_worker's server imports this."""

import tiny_job
import torch

torch.set_num_threads(1)
tiny_job.TinyJob("tiny", "none").load()  # a family's modules are imported when its model is made
