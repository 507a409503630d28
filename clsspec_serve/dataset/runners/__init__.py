"""What computes the shards of a run: this process, several of this machine, a Ray cluster."""
