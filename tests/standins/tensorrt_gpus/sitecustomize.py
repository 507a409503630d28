"""Python runs this first where the folder is on its path: there is TensorRT, see its double."""

import tensorrt_double

tensorrt_double.install()
