"""Writers: tensors → a file or folder that other programs read."""
