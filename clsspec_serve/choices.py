"""The words that options, environment variables and manifests accept; imports nothing."""

from __future__ import annotations

from typing import Literal

EngineName = Literal["onnxruntime", "openvino"]
EngineChoice = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16"]
Policy = Literal["squash", "crop", "fit"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropOffset = Literal["round", "floor"]
Task = Literal["cls", "patches"]
Format = Literal["npy", "npz", "safetensors"]
