"""Step 7, what people run: the command line. Modules import torch and transformers only when they work."""
