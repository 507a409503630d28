"""Python runs this first where the folder is on its path: there are GPUs, see `cuda_double`."""

import cuda_double

cuda_double.install()
