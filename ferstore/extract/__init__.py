"""Features out of images: the network, its weights, and the actors that run it over what is not computed yet."""
