"""Networks leave here: in ONNX with their parity proven, as a folder for a model hub, and as classes for pictures.

There is no form as a C header. The int8 ONNX file (about 200 kB) already serves every device that runs onnxruntime,
down to a telephone or a single-board computer; a microcontroller needs kernels for these layers more than it needs
the weights as arrays, and arrays without kernels cannot be run, so nothing could be proven of them.
"""
