"""The Open Inference Protocol, version 2, as clients of Triton and KServe speak it.

`messages` is what goes over the wire, `tensors` what the model takes and gives, `inference` a
request as it was understood, `binary` and `answer` the two ends of the binary data extension, and
`routes` puts them together. https://github.com/kserve/open-inference-protocol
"""
