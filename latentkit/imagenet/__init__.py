"""ImageNet's archives, made ready: found, told apart, checked, indexed, extracted."""
