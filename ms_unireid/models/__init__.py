"""The CLIP towers and UNIReID as MindSpore cells."""
