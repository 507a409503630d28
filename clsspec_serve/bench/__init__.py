"""How fast a bundle is on this machine, beside what the machine can do at all."""
