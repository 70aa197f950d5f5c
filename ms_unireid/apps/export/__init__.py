"""Exports a trained model for other programs: MindIR and ONNX files and a description of their inputs and outputs."""
