"""The PyTorch backend's implementation in Python: `model.py` runs in a worker process.

It serves models with `runtime: "model.py"`. Nothing of it is imported by the server.
"""
