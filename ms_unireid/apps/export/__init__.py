"""A trained model as files for other programs: MindIR, ONNX and the description of what goes in and comes out."""
