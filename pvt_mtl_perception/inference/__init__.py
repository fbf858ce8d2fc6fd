"""Image to result: preprocessing, the network, decoding, and pictures of what was found."""
