"""Independent PyTorch/numpy reference of UNIReID that the parity tests compare ms_unireid with.

Nothing here imports ms_unireid: every module is a literal rendering of the specification, slow and plain on purpose.
"""
