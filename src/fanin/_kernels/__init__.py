"""The compiled kernels; private, and free of Python objects inside their loops."""
