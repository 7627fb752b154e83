"""Training and inference on images that stay uint8 on the device."""
