"""TensorRT: plans built on this machine for this GPU, and kept. Start at `engine.py`."""
