"""Videos: the times of their frames, and the frames themselves, upright and in RGB."""
