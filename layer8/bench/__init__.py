"""What `layer8 bench` measures, and the process at the other end. Figures are for comparing within one run."""
