"""The words that options, environment variables and manifests accept; imports nothing."""

from __future__ import annotations

from typing import Literal

EngineName = Literal["cuda", "onnxruntime", "openvino", "tensorrt"]
EngineChoice = Literal["auto", "cuda", "onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Storage = Literal["fp32", "fp16"]
Policy = Literal["squash", "crop", "fit", "short"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropOffset = Literal["round", "floor"]
Feature = Literal["cls", "patches"]
HeadTask = Literal["segment", "depth", "classify"]
Task = Literal["cls", "patches", "segment", "depth", "classify"]
Format = Literal["npy", "npz", "safetensors"]
DType = Literal["float32", "float16"]
Form = Literal["npy", "npz", "safetensors", "png", "json"]
