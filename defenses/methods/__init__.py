"""One file a defense, or a folder where it needs several."""
