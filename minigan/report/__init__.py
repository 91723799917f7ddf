"""Pictures of samples and of training. The only code of minigan that imports matplotlib."""
